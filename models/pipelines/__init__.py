"""From a checkpoint and a prompt to frames: the conventions of each family, and the denoise loop."""

from .clip import Clip as Clip
from .cogvideox import CogVideoX as CogVideoX
from .conditions import Conditions as Conditions
from .denoise import Denoiser as Denoiser
from .denoise import Memory as Memory
from .denoise import Progress as Progress
from .family import Family as Family
from .folder import FAMILIES as FAMILIES
from .folder import read_family as read_family
from .hunyuan_video import HunyuanVideo as HunyuanVideo
from .latent_family import LatentFamily as LatentFamily
from .prompts import check_prompts as check_prompts
from .tiny import Tiny as Tiny
from .wan import Wan as Wan
