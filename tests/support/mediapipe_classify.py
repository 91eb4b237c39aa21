"""Classify frames with MediaPipe, in an environment of its own: MODEL.tflite FRAMES.npy -> one JSON line.

FRAMES: uint8 [n, height, width, 3], RGB. The line: for each frame [[label, score], ..], best first; or {"error": why}.
"""

import json
import sys
from pathlib import Path

import numpy as np
from mediapipe import Image, ImageFormat
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions

model, frames = sys.argv[1:]
options = ImageClassifierOptions(base_options=BaseOptions(model_asset_buffer=Path(model).read_bytes()))
try:
    with ImageClassifier.create_from_options(options) as classifier:
        answers = [
            [[c.category_name, c.score] for c in classifier.classify(image).classifications[0].categories]
            for image in (Image(image_format=ImageFormat.SRGB, data=frame) for frame in np.load(frames))
        ]
    print(json.dumps(answers))
except Exception as e:  # a refusal has one of many types
    print(json.dumps({"error": str(e)}))
