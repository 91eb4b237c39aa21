"""Frame sources: clips, images, cameras, streams and a test pattern, one file for each kind."""
