"""Wan's causal video autoencoder (diffusers' AutoencoderKLWan); see README.md."""

from .config import PRESETS as PRESETS
from .config import WanVAEConfig as WanVAEConfig
from .model import WanVAE as WanVAE
from .tiling import Tiling as Tiling
