"""Encrypted backups: made, listed, verified, restored, drilled, pruned and scheduled."""
