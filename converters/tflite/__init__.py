"""TFLite files: how to read them, rewrite them, and run them with the reference kernels."""
