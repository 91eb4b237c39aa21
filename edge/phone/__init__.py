"""A bundle as a page for a phone: exported as static files, served over HTTPS for trying it out."""
