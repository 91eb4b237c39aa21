"""The Edge TPU: what its compiler takes, and graphs rewritten for it."""
