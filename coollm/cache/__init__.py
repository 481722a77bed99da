"""Answers that are kept for identical requests."""
