"""Quantization: activation ranges, the search for the best int8 model, and the quantized files."""
