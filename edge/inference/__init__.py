"""The model: opened, proven with its golden samples, run, and replaced while the agent runs."""
