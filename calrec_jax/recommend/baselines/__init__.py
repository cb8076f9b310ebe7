"""Baselines: popularity, the user's own items, rules, BM25."""
