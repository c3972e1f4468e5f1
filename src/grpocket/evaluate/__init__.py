"""Held-out score, with its uncertainty."""
