"""CSV files of any dialect."""
