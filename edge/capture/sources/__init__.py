"""Where frames come from: clips, images, cameras, streams and a test pattern, one file a kind."""
