"""One published pattern, one file. Composites (`PerHead`, `Table`) take pattern objects."""

from .adaspa import AdaSpa as AdaSpa
from .compensated import Compensated as Compensated
from .dense import Dense as Dense
from .diagonal import Diagonal as Diagonal
from .diagonal import MultiDiagonal as MultiDiagonal
from .fastvideo_bsa import FastVideoBSA as FastVideoBSA
from .global_frames import GlobalFrames as GlobalFrames
from .lite_attention import LiteAttention as LiteAttention
from .longcat_bsa import LongCatBsa as LongCatBsa
from .lvsa import LVSA as LVSA
from .nabla import Nabla as Nabla
from .per_head import PerHead as PerHead
from .radial import Radial as Radial
from .skip import Skip as Skip
from .skip_softmax import SkipSoftmax as SkipSoftmax
from .sliding_tile import SlidingTile as SlidingTile
from .sol_attn import SolAttn as SolAttn
from .sparge import SpargeAttn as SpargeAttn
from .ssta import SSTA as SSTA
from .sub_block import SubBlock as SubBlock
from .svg import SVG as SVG
from .svg2 import SVG2 as SVG2
from .table import Table as Table
from .vertical_stripe import VerticalStripe as VerticalStripe
from .vorta import Coreset as Coreset
