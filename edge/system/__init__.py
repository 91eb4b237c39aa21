"""The machine around the agent: hardware, systemd, and the supervisor."""
