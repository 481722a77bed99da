"""Limits: what a request is charged before it is sent, and what after it has ended."""
