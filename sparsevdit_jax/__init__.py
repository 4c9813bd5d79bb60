"""Sparse 3-D attention for video diffusion transformers."""

from .attention import SparseAttention as SparseAttention
from .context import KernelOptions as KernelOptions
from .context import StepContext as StepContext
from .engine import attend as attend
from .functional import sparse_attention as sparse_attention
from .grid import VideoGrid as VideoGrid
from .merge import merge_by_lse as merge_by_lse
from .pattern import Attended as Attended
from .pattern import AttentionPattern as AttentionPattern
from .pattern import StaticPattern as StaticPattern
from .plan import AttentionPlan as AttentionPlan
from .schedule import Phase as Phase
from .schedule import StepSchedule as StepSchedule
from .token_order import TokenOrder as TokenOrder
from .token_permutation import TokenPermutation as TokenPermutation
