"""CogVideoX's transformer: 1.0 (2B, 5B) and 1.5 (5B), text-to-video and image-to-video."""

from .config import PRESETS as PRESETS
from .config import CogVideoXConfig as CogVideoXConfig
from .model import CogVideoXTransformer as CogVideoXTransformer
from .positions import rotary_embedding as rotary_embedding
