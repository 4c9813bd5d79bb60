"""One published pattern, one file. Composites (`PerHead`, `Table`) take pattern objects."""

from .adaspa import AdaSpa as AdaSpa
from .compensated import Compensated as Compensated
from .dense import Dense as Dense
from .diagonal import Diagonal as Diagonal
from .diagonal import MultiDiagonal as MultiDiagonal
from .fastvideo_bsa import FastVideoBsa as FastVideoBsa
from .longcat_bsa import LongCatBsa as LongCatBsa
from .nabla import Nabla as Nabla
from .per_head import PerHead as PerHead
from .skip import Skip as Skip
from .sliding_tile import SlidingTile as SlidingTile
from .sol_attn import SolAttn as SolAttn
from .sub_block import SubBlock as SubBlock
from .svg2 import Svg2 as Svg2
from .svg_ear import SvgEar as SvgEar
from .table import Table as Table
from .vertical_stripe import VerticalStripe as VerticalStripe
from .vmoba import VMoBA as VMoBA
from .vorta import Coreset as Coreset
