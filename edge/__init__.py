"""The agent: a camera in, predictions out. Light enough for a Raspberry Pi, and without torch or tensorflow."""
