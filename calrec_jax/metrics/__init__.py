"""What is measured, and how it is averaged: ranks, intervals, sums."""
