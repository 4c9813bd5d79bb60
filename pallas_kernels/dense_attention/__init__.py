"""Attention over all keys, with its log-sum-exp."""

from .api import dense_attention as dense_attention
