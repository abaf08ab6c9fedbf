"""What a program imports from rolora, and what the command line is a shell over."""
