"""Decoding along the trie of the catalogue's token sequences."""
