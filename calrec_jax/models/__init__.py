"""The decoder, its two towers and the mixed objective."""
