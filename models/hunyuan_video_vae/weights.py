"""Names of the weights in a checkpoint: the modules are called as in diffusers."""

from ..keys import KeyTable

KEYS = KeyTable()
