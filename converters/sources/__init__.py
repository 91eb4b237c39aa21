"""Models of every format, read into one dataclass: a float TFLite with the images to measure it by."""
