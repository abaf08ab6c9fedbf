"""Hostile clients, by attack, share and defence."""
