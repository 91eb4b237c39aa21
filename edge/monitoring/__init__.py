"""Health checks and metrics of the agent."""
