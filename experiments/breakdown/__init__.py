"""Where averaging both factors breaks down, and the gap that it leaves."""
