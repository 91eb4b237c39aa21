"""Reports for people and programs: HTML pages, JSON documents and texts for a terminal."""
