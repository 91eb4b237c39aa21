"""From here to a device over ssh: what runs there, the model, and the service; or all of it away again."""
