"""What the programs share: a model's input and output, and the folders in which models travel to a device.

The three programs, `trainer`, `converters` and `edge`, import this package and never each other.
It has few dependencies (numpy, OpenCV, PyYAML, click), because a Raspberry Pi installs it.
"""

__version__ = "0.1.0"
