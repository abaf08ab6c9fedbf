"""The round: the one place where rounds are counted."""
