"""Ranking the items of a catalogue for users.

`protocol` says what every recommender answers and `registry` makes them by
name. `generate` samples texts from the model and matches them to items;
`constrain` decodes along the trie of the catalogue; `dense` compares user and
item vectors; `fuse` joins rankings; `baselines` need no model.
"""
