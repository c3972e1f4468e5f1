"""Prompt token ids in, completions out."""
