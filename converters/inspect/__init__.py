"""What a model or a data set contains, for `sightline inspect`."""
