"""From a checkpoint folder and a prompt to frames: the conventions of each family, and the denoising loop."""

from .cogvideox import CogVideoX as CogVideoX
from .conditions import Conditions as Conditions
from .denoise import Denoiser as Denoiser
from .denoise import Memory as Memory
from .denoise import Progress as Progress
from .family import Clip as Clip
from .family import Family as Family
from .folder import FAMILIES as FAMILIES
from .folder import read_family as read_family
from .hunyuan_video import HunyuanVideo as HunyuanVideo
from .wan import Wan as Wan
