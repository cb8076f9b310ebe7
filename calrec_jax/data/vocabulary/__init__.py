"""Vocabularies: trained on a corpus, pretrained, pruned."""
