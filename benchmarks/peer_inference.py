"""Roboflow's InferencePipeline around the same model, to be run by a Python that has `inference` installed.

usage: peer_inference.py MODEL.tflite CLIP SIZE
"""

import sys

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from inference.core.interfaces.stream.inference_pipeline import InferencePipeline

model, clip, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
cv2.setNumThreads(1)
interpreter = Interpreter(model_path=model, num_threads=1)
interpreter.allocate_tensors()
entry, end = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]


def look(frames):
    answers = []
    for frame in frames:
        image = cv2.cvtColor(cv2.resize(frame.image, (size, size)), cv2.COLOR_BGR2RGB)
        interpreter.set_tensor(entry, (image ^ 0x80).view(np.int8)[None])
        interpreter.invoke()
        answers.append({"best": int(interpreter.get_tensor(end).argmax())})
    return answers


pipeline = InferencePipeline.init_with_custom_logic(
    video_reference=clip, on_video_frame=look, on_prediction=lambda answer, frame: print(answer["best"], flush=True)
)
pipeline.start()
pipeline.join()
