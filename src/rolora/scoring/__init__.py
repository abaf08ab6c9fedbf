"""Scoring by the field's own harness, and the box in which code that a model wrote is run."""
