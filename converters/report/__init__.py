"""The reports for people, as HTML without scripts."""
