import math

import numpy as np
import pytest

from experiments.demo.curve import loss_curve
from tests.experiments.documents import Document


@pytest.mark.parametrize(
    "points", [None, [], "text", [[1, 0.5]], [[1, None], [2, "x"], [3, -1.0]], [[0, 1.0], [1, 0.5]]]
)
def test_a_loss_curve_needs_two_points(points):
    assert loss_curve(points) is None


@pytest.mark.parametrize(
    "losses", [(1.0, 0.1), (0.02, 0.019), (0.5, 0.5), (3e-5, 2e4), (0.3, 0.11)]
)
def test_a_loss_curve_lies_in_its_frame_and_has_ticks(losses):
    drawing = loss_curve([[50, losses[0]], [30000, losses[1]], [20000, math.nan]])
    assert "nan" not in drawing
    svg = Document(drawing)
    (line,) = [a["d"] for a in svg.all("path") if a["class"] == "line"]
    places = np.array([p.split(",") for p in line[1:].split("L")], float)
    assert len(places) == 2
    assert (places >= 0).all()
    assert (places <= (560, 300)).all()
    grid = [a for a in svg.all("path") if a["class"] == "grid"]
    assert 2 <= len(grid) <= 12
