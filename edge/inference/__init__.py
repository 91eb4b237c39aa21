"""Opens a model, proves it with its golden samples, and replaces it while the agent runs."""
