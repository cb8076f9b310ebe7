"""Recommending the next item with a language model, TPU first.

An open implementation of CALRec (Li et al., RecSys 2024): a user's purchase
history becomes text, a decoder-only language model writes the text of the
next item, and the text is matched to the catalogue.
"""

__version__ = "0.1.0"
