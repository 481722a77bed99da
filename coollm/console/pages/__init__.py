"""The pages, one subject in each file."""
