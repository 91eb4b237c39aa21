"""What a model or a data set holds."""
