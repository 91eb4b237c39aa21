"""TFLite files: read, rewritten, and run with the reference kernels."""
