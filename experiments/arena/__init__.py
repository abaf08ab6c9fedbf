"""The arena: all methods, tuned alike, on digits and on texts."""
