"""Health and metrics, for whoever watches the agent."""
