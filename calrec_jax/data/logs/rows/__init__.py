"""Rows of a log to its events and items."""
