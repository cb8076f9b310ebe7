"""Ranking metrics, confidence intervals and weighted sums."""
