"""Ranking the items of a catalogue for users.

`protocol` says what every recommender answers. `generate` samples texts from
the model (`prompts`, `sampling`, `texts`) and `ground` matches them to items by
`bm25`; `dense` compares user and item vectors (`topk`, `columns`); `fuse` joins
rankings; `baselines` need no model.
"""
