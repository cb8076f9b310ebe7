"""TFDS and SeqIO: the only room that imports TensorFlow."""
