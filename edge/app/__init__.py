"""One run of the agent: opened from its options, run, and closed."""
