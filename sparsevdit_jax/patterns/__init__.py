"""One published pattern, one file. Composites (`PerHead`, `Table`) take pattern objects."""

from .adaspa import AdaSpa as AdaSpa
from .compensated import Compensated as Compensated
from .dense import Dense as Dense
from .diagonal import Diagonal as Diagonal
from .diagonal import MultiDiagonal as MultiDiagonal
from .lite_attention import LiteAttention as LiteAttention
from .per_head import PerHead as PerHead
from .skip import Skip as Skip
from .skip_softmax import SkipSoftmax as SkipSoftmax
from .sliding_tile import SlidingTile as SlidingTile
from .sol_attn import SolAttn as SolAttn
from .table import Table as Table
from .vertical_stripe import VerticalStripe as VerticalStripe
