"""Install Sightline, a model and its service on devices over SSH, or remove them again."""
