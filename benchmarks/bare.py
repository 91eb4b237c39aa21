"""The smallest program that runs a model on a clip: OpenCV and the interpreter, one after the other.

usage: bare.py MODEL.tflite CLIP SIZE [FRAMES]. It prints the best class of each frame.
"""

import sys

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

model, clip, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
frames = int(sys.argv[4]) if len(sys.argv) > 4 else 0
cv2.setNumThreads(1)
interpreter = Interpreter(model_path=model, num_threads=1)
interpreter.allocate_tensors()
input_index = interpreter.get_input_details()[0]["index"]
output_index = interpreter.get_output_details()[0]["index"]
capture = cv2.VideoCapture(clip, cv2.CAP_FFMPEG)
count = 0
while not frames or count < frames:
    ok, frame = capture.read()
    if not ok:
        break
    image = cv2.cvtColor(cv2.resize(frame, (size, size)), cv2.COLOR_BGR2RGB)
    interpreter.set_tensor(input_index, (image ^ 0x80).view(np.int8)[None])
    interpreter.invoke()
    print(int(interpreter.get_tensor(output_index).argmax()), flush=True)
    count += 1
