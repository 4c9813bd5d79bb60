"""Attention over a list of key/value blocks for each (batch, head, query block)."""

from .api import block_sparse_attention as block_sparse_attention
