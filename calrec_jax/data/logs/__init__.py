"""Purchase logs: files, rows, and the bad rows that are counted."""
