"""Write the Keras models for the tests, in a child process: python keras_models.py IMAGES.npz FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def main() -> None:
    pictures, folder = np.load(sys.argv[1]), Path(sys.argv[2])
    net = colour_net(pictures["frames"].astype(np.float32), pictures["classes"])
    net.save(folder / "net.keras")
    net.save(folder / "net.h5")
    net.export(folder / "saved", verbose=False)

    keras.utils.set_random_seed(0)
    picture = keras.Input((16, 16, 3), name="picture")
    mean = layers.GlobalAveragePooling2D()
    keras.Model(picture, mean(layers.Lambda(lambda x: x * 2)(picture))).save(folder / "lambda.keras")
    keras.Model(picture, mean(Own()(picture))).save(folder / "own.keras")
    keras.Model(picture, [mean(picture), layers.GlobalMaxPooling2D()(picture)]).save(folder / "two_outputs.keras")
    other = keras.Input((16, 16, 3), name="other")
    keras.Model([picture, other], mean(layers.Add()([picture, other]))).save(folder / "two_inputs.keras")
    for name, shape in (("any_size", (None, None, 3)), ("first", (3, 16, 16)), ("grey", (16, 16, 1))):
        entry = keras.Input(shape, name="picture")
        keras.Model(entry, mean(layers.Conv2D(4, 1)(entry))).save(folder / f"{name}.keras")
    net.save_weights(folder / "only.weights.h5")
    keras.Model(picture, mean(Fourier(name="spectrum")(picture))).export(folder / "fourier", verbose=False)
    module = tf.Module()
    module.go = tf.function(lambda x: x, input_signature=[tf.TensorSpec((None, 16, 16, 3), name="x")])
    tf.saved_model.save(module, folder / "other_signature", signatures={"go": module.go})
    writes(folder / "writes", folder / "it-ran")
    (folder / "broken").mkdir()
    (folder / "broken" / "saved_model.pb").write_bytes(b"no protobuf")
    (folder / "cut.keras").write_bytes((folder / "net.keras").read_bytes()[:-2000])


class Table(tf.lookup.experimental.DenseHashTable):
    """A table whose initialization, which runs at load, writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)
        super().__init__(tf.int64, tf.int64, default_value=-1, empty_key=-2, deleted_key=-3)

    def _initialize(self) -> None:
        if not tf.executing_eagerly():
            tf.io.write_file(self.mark, "written at load")


def writes(folder: Path, mark: Path) -> None:
    module = tf.Module()
    module.table = Table(mark)

    def go(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(x, (1, 2))

    module.go = tf.function(go, input_signature=[tf.TensorSpec((None, 16, 16, 3), name="x")])
    tf.saved_model.save(module, folder, signatures={"serving_default": module.go})


class Own(layers.Layer):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * 2


class Fourier(layers.Layer):
    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.math.real(tf.signal.fft2d(tf.cast(x, tf.complex64)))


def colour_net(frames: np.ndarray, classes: np.ndarray) -> keras.Model:
    """Depthwise-separable, of bytes 0..255, probabilities out; its last layer is solution for, the rest is random."""
    keras.utils.set_random_seed(0)
    x = entry = keras.Input(frames.shape[1:], name="picture")
    x = layers.Rescaling(1 / 127.5, -1)(x)
    for filters, strides in ((16, 2), (24, 2), (32, 1)):
        x = layers.SeparableConv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.5)(x)
        x = layers.ReLU(6.0)(x)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    body = keras.Model(entry, x)
    for _ in range(10):
        body(frames, training=True)  # the statistics of its batch norms
    features = np.c_[body(frames, training=False).numpy(), np.ones(len(frames))]
    targets = 4 * np.eye(classes.max() + 1)[classes]
    solution = np.linalg.solve(features.T @ features + 1e-3 * np.eye(features.shape[1]), features.T @ targets)
    head = layers.Dense(targets.shape[1], activation="softmax")
    net = keras.Model(entry, head(x))
    head.set_weights([solution[:-1], solution[-1]])
    assert (net(frames).numpy().argmax(1) == classes).all()
    return net


if __name__ == "__main__":
    main()
