"""The smallest program that converts a run to a static int8 TFLite: litert-torch and ai-edge-quantizer, unchecked.

usage: bare_convert.py RUN OUT.tflite
"""

import sys
import tempfile
from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import quantizer, recipe

run, out = Path(sys.argv[1]), Path(sys.argv[2])
module = torch.export.load(run / "model.pt2").module()
for tensor in (*module.parameters(), *module.buffers()):
    tensor.data = tensor.data.contiguous()  # otherwise litert-torch swaps weights
frames = np.load(run / "calibration.npz")["frames"].astype(np.float32)
with tempfile.TemporaryDirectory() as folder:
    path = str(Path(folder) / "float.tflite")
    litert_torch.convert(module, (torch.zeros(1, *frames.shape[1:]),)).export(path)
    q = quantizer.Quantizer(path, recipe.static_wi8_ai8())
    calibrated = q.calibrate({"serving_default": [{"args_0": frame[None]} for frame in frames]})
    q.quantize(calibrated).export_model(str(out), overwrite=True)
