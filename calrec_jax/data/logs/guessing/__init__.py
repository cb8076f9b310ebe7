"""What unknown files and columns are likely to be."""
