"""Text encoders of T5: UMT5-XXL (Wan) and T5 v1.1-XXL (CogVideoX)."""

from .config import PRESETS as PRESETS
from .config import T5Config as T5Config
from .config import t5_config_from_json as t5_config_from_json
from .model import T5Encoder as T5Encoder
from .prompts import encode_cogvideox_prompts as encode_cogvideox_prompts
from .prompts import encode_wan_prompts as encode_wan_prompts
