"""Ratios against the bare minimum, each measured in one run. Every file prints JSON lines, one a figure."""
