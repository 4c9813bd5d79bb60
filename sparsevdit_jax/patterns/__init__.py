"""One published pattern, one file. Composites (`PerHead`, `Table`) take pattern objects."""

from .adaspa import AdaSpa as AdaSpa
from .dense import Dense as Dense
from .diagonal import Diagonal as Diagonal
from .diagonal import MultiDiagonal as MultiDiagonal
from .per_head import PerHead as PerHead
from .skip import Skip as Skip
from .sla import SLA as SLA
from .sliding_tile import SlidingTile as SlidingTile
from .table import Table as Table
from .vertical_stripe import VerticalStripe as VerticalStripe
from .vsa import VSA as VSA
from .vsa_h3 import VSAH3 as VSAH3
