"""Where results go: terminal, files, MQTT, webhooks, snapshots and recordings."""
