"""JSON files of any layout."""
