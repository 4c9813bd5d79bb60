"""All sections, in the order of the page."""

from experiments.report.machines import BENCH, COSTS, DEMO, FULL_SIZE, FUSION, PARITY, SCALING
from experiments.report.method_sections import ADASPA, FINETUNE, QUALITY, SEARCH

SECTIONS = (
    QUALITY,
    SEARCH,
    FINETUNE,
    ADASPA,
    COSTS,
    FUSION,
    DEMO,
    BENCH,
    PARITY,
    FULL_SIZE,
    SCALING,
)
