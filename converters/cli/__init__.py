"""The commands of the converters."""
