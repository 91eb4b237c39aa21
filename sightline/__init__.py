"""Sightline's contract: what a model takes in, what it gives out, and how the two travel to a device.

The three programs, `trainer`, `converters` and `edge`, import this package and never each other.
It is light on purpose (numpy, OpenCV, PyYAML, click): it is what a Raspberry Pi installs.
"""

__version__ = "0.1.0"
