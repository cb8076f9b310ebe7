"""From raw purchase logs to packed training batches.

Each step has its package: `logs` (rows become events, bad rows are counted),
`domain` (one catalogue with its users: sorted, filtered, split), `vocabulary`
(texts become tokens), `cache` (tokens on disk), `feed` (packed batches).
`dataset` describes all of it for a run and `building` writes missing caches.
`seqio` writes the same documents as TFDS datasets with SeqIO tasks, for other
trainers, and is the only package that imports TensorFlow.
"""

VERSION = 1
"""Part of the identity of saved results: raised when the same token cache gives
other prompts, histories or purchases."""
