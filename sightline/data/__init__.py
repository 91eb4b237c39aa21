"""Data sets on disk: class folders, boxes in their many formats."""
