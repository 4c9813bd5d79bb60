"""One published pattern, one file. Composites (`PerHead`, `Table`) take pattern objects."""

from .adaspa import AdaSpa as AdaSpa
from .cube_sparse import CubeSparse as CubeSparse
from .dense import Dense as Dense
from .diagonal import Diagonal as Diagonal
from .diagonal import MultiDiagonal as MultiDiagonal
from .draft import Draft as Draft
from .jenga import Jenga as Jenga
from .longcat_bsa import LongCatBsa as LongCatBsa
from .nabla import Nabla as Nabla
from .per_head import PerHead as PerHead
from .rain_fusion import RainFusion as RainFusion
from .skip import Skip as Skip
from .sliding_tile import SlidingTile as SlidingTile
from .sub_block import SubBlock as SubBlock
from .table import Table as Table
from .vertical_stripe import VerticalStripe as VerticalStripe
