"""From raw purchase logs to packed training batches.

The way of the data, one room a step: `logs` (rows become events, bad rows are
counted), `domain` (one catalogue with its users: sorted, filtered, split),
`vocabulary` (texts become tokens), `cache` (tokens on disk), `feed` (packed
batches). `dataset` names all of it for a run and `building` makes what is
missing. `seqio` is the second road, for TFDS and SeqIO, and the only room that
imports TensorFlow.
"""

VERSION = 1
"""Part of the identity of saved answers: raise it where the same token cache
gives other prompts, histories or purchases."""
