"""One published pattern, one file. Composites (`PerHead`, `Table`) take pattern objects."""

from .adaspa import AdaSpa as AdaSpa
from .dense import Dense as Dense
from .diagonal import Diagonal as Diagonal
from .diagonal import MultiDiagonal as MultiDiagonal
from .global_frames import GlobalFrames as GlobalFrames
from .lvsa import LVSA as LVSA
from .monarch import Monarch as Monarch
from .per_head import PerHead as PerHead
from .radial import Radial as Radial
from .rettention import Rettention as Rettention
from .skip import Skip as Skip
from .sliding_tile import SlidingTile as SlidingTile
from .svg import SVG as SVG
from .table import Table as Table
from .vertical_stripe import VerticalStripe as VerticalStripe
