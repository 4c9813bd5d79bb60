"""Linear attention, over all keys or over chosen block pairs."""

from .api import linear_attention as linear_attention
