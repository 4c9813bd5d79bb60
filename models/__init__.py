"""Video diffusion transformers in Flax NNX. Each takes an attention pattern for each layer, or is dense."""

from .attention import Attention as Attention
from .attention import JointAttention as JointAttention
from .attention import LayerAttention as LayerAttention
from .lora import check_loras as check_loras
from .lora import merge_lora as merge_lora
from .lora import merge_loras as merge_loras
from .pretrained import check_weights as check_weights
from .pretrained import load_text_encoder as load_text_encoder
from .pretrained import load_transformer as load_transformer
from .pretrained import load_vae as load_vae
from .pretrained import save_text_encoder as save_text_encoder
from .pretrained import save_transformer as save_transformer
from .pretrained import save_vae as save_vae
from .tiny import TinyConfig as TinyConfig
from .tiny import TinyVideoDiT as TinyVideoDiT
from .tiny import load_tiny as load_tiny
from .tiny import save_tiny as save_tiny
from .transformer import TransformerOutput as TransformerOutput
