"""Fusing recommenders, with weights that validation users choose."""
