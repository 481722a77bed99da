"""The HTTP face: one file for each family of routes."""
