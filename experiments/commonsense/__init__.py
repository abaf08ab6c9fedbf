"""Multiple-choice questions of common sense, answered by letters."""
