"""The machine that the agent runs on: its hardware, systemd, and the supervisor."""
