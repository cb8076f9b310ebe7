"""From raw purchase logs to packed training batches.

The data pass through one room a step: `logs` (rows become events, bad rows are
counted), `domain` (one catalogue with its users: sorted, filtered, split),
`vocabulary` (texts become tokens), `cache` (tokens on disk), `feed` (packed
batches). `dataset` names all of it for a run and `building` writes the caches
that are missing. `seqio` writes the same documents as TFDS datasets with SeqIO
tasks, for other trainers, and is the only room that imports TensorFlow.
"""

VERSION = 1
"""Part of the identity of saved answers: raise it where the same token cache
gives other prompts, histories or purchases."""
