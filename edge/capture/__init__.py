"""Cameras and clips: one thread each reads frames, and the newest of them waits for the model."""
