"""Video diffusion transformers in Flax NNX; each works dense and takes an attention pattern per layer."""

from .tiny import TinyConfig as TinyConfig
from .tiny import TinyVideoDiT as TinyVideoDiT
from .tiny import load_tiny as load_tiny
