"""How the policy changes."""
