"""The decoder, its two towers and the mixed objective."""

VERSION = 1
"""Part of the identity of saved answers: raise it where the same parameters
give other hidden states or logits."""
