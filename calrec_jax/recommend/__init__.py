"""Ranking the items of a catalogue for users.

`protocol` is the base class of every recommender, `candidates` says which items
may be recommended, `registry` makes recommenders by name, `answering` is the
inference job. `generate` samples texts from the model and matches them to
items; `constrain` decodes along the trie of the catalogue; `dense` compares
user and item vectors; `fuse` joins rankings; `baselines` need no model.
"""

VERSION = 1
"""Part of the identity of saved answers: raise it where what all recommenders
share (request, filter, cut, search, sampling) gives other lists. One that
changes alone raises its own `Recommender.version`."""
