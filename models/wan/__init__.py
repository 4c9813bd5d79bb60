"""Wan 2.1 and 2.2: video transformers with self-attention over the video and cross-attention to the prompt."""

from .config import PRESETS as PRESETS
from .config import WanConfig as WanConfig
from .model import WanTransformer as WanTransformer
