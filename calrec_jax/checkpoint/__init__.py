"""Checkpoints on disk: writing, restoring, converting, initial parameters."""
