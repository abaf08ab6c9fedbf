"""Rolora beside what a user would write by hand: same work, same results, one process."""
