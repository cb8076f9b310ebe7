"""Exact top-k of user vectors against item vectors."""
