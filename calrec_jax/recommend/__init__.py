"""Ranking the items of a catalogue for users.

`protocol` says what every recommender answers. `generate` samples texts from
the model (`prompts`, `sampling`, `texts`) and `ground` matches them to items by
`bm25` (`match`); `dense` compares user and item vectors (`topk`, `columns`),
which `catalogue_vectors` keeps on disk; `fuse` joins rankings, `padded` fills
up short ones; `baselines` need no model.
"""
