"""CogVideoX's video autoencoder in Flax NNX."""

from ..tiling import Tile as Tile
from .config import PRESETS as PRESETS
from .config import CogVideoXVAEConfig as CogVideoXVAEConfig
from .model import CogVideoXVAE as CogVideoXVAE
