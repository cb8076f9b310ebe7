"""From raw purchase logs to packed training batches.

The way of the data, one module a step: `events` and `log_files` (raw rows),
`domain` and `splits` (one catalogue with its users), `prompt` and `text`
(words), `builder` and `tasks` (TFDS and SeqIO), `cache` (tokens on disk),
`features`, `packing`, `plan` and `feed` (batches). Only `builder` and `tasks`
need TensorFlow.
"""
