"""Sightline on data that needs no download."""
