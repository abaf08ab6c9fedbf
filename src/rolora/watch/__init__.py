"""A live page over run directories, for this machine alone; it reads and never writes."""
