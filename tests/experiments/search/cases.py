"""Flags of small searches."""

SMALL = dict(steps=2, tile=(1, 2, 3), block=6, dtype="float32", save_every=1)
STA = dict(windows=((1, 1, 3), (1, 3, 1), (3, 1, 1)), dense_steps=0)
