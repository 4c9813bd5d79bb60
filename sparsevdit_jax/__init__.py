"""Sparse 3-D attention for video diffusion transformers."""

from .attention import SparseAttention as SparseAttention
from .functional import sparse_attention as sparse_attention
from .grid import VideoGrid as VideoGrid
from .pattern import AttentionPattern as AttentionPattern
from .schedule import Phase as Phase
from .schedule import StepContext as StepContext
from .schedule import StepSchedule as StepSchedule
from .token_order import TokenOrder as TokenOrder
