"""Attention over blocks of keys for JAX: block-sparse, dense and linear attention, and block mass."""

from .block_mask import BlockMask as BlockMask
from .block_mass import block_mass as block_mass
from .block_sparse_attention import block_sparse_attention as block_sparse_attention
from .dense_attention import dense_attention as dense_attention
from .linear_attention import linear_attention as linear_attention
from .tile_gaps import tile_gaps as tile_gaps
