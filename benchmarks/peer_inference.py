"""Roboflow's InferencePipeline around the same model. Run it with a Python that has `inference` installed.

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
input_index = interpreter.get_input_details()[0]["index"]
output_index = interpreter.get_output_details()[0]["index"]


def classify(frames):
    results = []
    for frame in frames:
        image = cv2.cvtColor(cv2.resize(frame.image, (size, size)), cv2.COLOR_BGR2RGB)
        interpreter.set_tensor(input_index, (image ^ 0x80).view(np.int8)[None])
        interpreter.invoke()
        results.append({"best": int(interpreter.get_tensor(output_index).argmax())})
    return results


pipeline = InferencePipeline.init_with_custom_logic(
    video_reference=clip,
    on_video_frame=classify,
    on_prediction=lambda result, frame: print(result["best"], flush=True),
)
pipeline.start()
pipeline.join()
