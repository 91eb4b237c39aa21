"""Accuracy: how a model answers on held-out images, and whether that is good enough."""
