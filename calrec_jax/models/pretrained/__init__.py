"""Pretrained models: others' names and shapes, to the decoder's and back."""
