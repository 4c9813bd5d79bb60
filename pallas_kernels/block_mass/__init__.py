"""Attention mass of every block pair, from a cached log-sum-exp."""

from .api import block_mass as block_mass
