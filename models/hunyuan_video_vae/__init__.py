"""HunyuanVideo's autoencoder: video to latents and back, whole or in tiles."""

from ..tiling import Tile as Tile
from .config import PRESETS as PRESETS
from .config import HunyuanVideoVAEConfig as HunyuanVideoVAEConfig
from .model import HunyuanVideoVAE as HunyuanVideoVAE
