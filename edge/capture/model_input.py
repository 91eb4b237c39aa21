"""Makes a model's input from a slot's frame, in the slot's own buffers."""

from __future__ import annotations

from edge.capture.mailbox import Slot
from sightline.interpreter import InputQuantizer
from sightline.preprocess import Preprocessor


def make_image(slot: Slot, preprocess: Preprocessor) -> None:
    """Resize the slot's frame into its image."""
    assert slot.frame is not None
    if slot.image.shape != (preprocess.spec.height, preprocess.spec.width, 3):
        slot.image = preprocess.empty()
    preprocess(slot.frame, slot.image)


def preprocess_into(slot: Slot, quantizer: InputQuantizer) -> None:
    """Quantize the slot's image into its input tensor."""
    shape, dtype = quantizer.tensor.shape, quantizer.tensor.dtype
    if slot.input_tensor.shape != shape or slot.input_tensor.dtype != dtype:
        slot.input_tensor = quantizer.empty()
    quantizer(slot.image, slot.input_tensor)
