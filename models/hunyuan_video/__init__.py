"""HunyuanVideo's transformer: see README.md in this folder."""

from .config import PRESETS as PRESETS
from .config import HunyuanVideoConfig as HunyuanVideoConfig
from .model import HunyuanVideoTransformer as HunyuanVideoTransformer
