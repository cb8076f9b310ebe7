"""Benchmarks, each of which writes one line of JSON."""
