"""The token cache: documents as tokens, on disk."""
