"""Columns as ids, times, numbers and texts."""
