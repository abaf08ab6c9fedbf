"""What a run leaves for its reader: one HTML page a run, a table and a picture a comparison."""
