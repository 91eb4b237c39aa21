"""Quantization: ranges, the ladder of methods, and the files that come out."""
