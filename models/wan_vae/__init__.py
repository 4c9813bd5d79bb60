"""Wan's causal video autoencoder (diffusers' AutoencoderKLWan); see README.md."""

from ..tiling import Tile as Tile
from .config import PRESETS as PRESETS
from .config import WanVAEConfig as WanVAEConfig
from .model import WanVAE as WanVAE
