"""Conversion between published models and the decoder's parameters."""
