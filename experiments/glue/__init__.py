"""The language tables."""
