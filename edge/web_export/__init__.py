"""A bundle as static files that run in a browser."""
