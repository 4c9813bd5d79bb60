import math

import numpy as np
import pytest

from experiments.demo import charts, labels
from experiments.html import markup

METHODS = [
    {"key": "dense", "label": "Dense", "density": 1.0},
    {"key": "sta", "label": "STA", "density": 0.34, "psnr_db": 27.4},
    {"key": "adaspa", "label": "AdaSpa", "density": 0.2, "psnr_db": 25.8},
    {
        "key": "sta-narrow",
        "label": "STA (3,1,1)",
        "density": 0.05,
        "psnr_db": 16.2,
        "variant": True,
    },
]


def test_labels_overlap_neither_each_other_nor_markers():
    rng = np.random.default_rng(0)
    bounds = (62.0, 16.0, 680.0, 380.0)
    words = ["STA", "AdaSpa", "AdaSpa 10 %", "Sparse-vDiT multi-diagonal", "Sparse-vDiT per head"]
    sizes = [labels.text_size(word) for word in (*words, *words)]
    clouds = [rng.uniform((80, 40), (660, 360), (10, 2)) for _ in range(20)]
    clouds += [np.full((10, 2), 300.0), np.array([[660.0, 30.0 + i] for i in range(10)])]
    for points in clouds:
        boxes = labels.place_labels([tuple(p) for p in points], sizes, bounds)
        for i, box in enumerate(boxes):
            assert box[0] >= bounds[0]
            assert box[2] <= bounds[2]
            assert box[1] >= bounds[1]
            assert box[3] <= bounds[3]
            assert all(labels.overlap(box, other) < 1 for other in boxes[:i])
            for x, y in points:
                mark = (x - labels.MARK, y - labels.MARK, x + labels.MARK, y + labels.MARK)
                assert labels.overlap(box, mark) < 1


@pytest.mark.parametrize(
    ("low", "high"), [(15.2, 27.4), (0.0, 0.42), (0.7, 1.0), (3, 3), (1e-6, 2e-6)]
)
def test_ticks_are_round_and_cover_the_range(low, high):
    ticks = labels.nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 3 <= len(ticks) <= 9
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


def test_variants_share_the_colour_of_their_method():
    styles = charts.series([*METHODS, {"key": "other-x", "variant": True}])
    assert styles == {
        "dense": (-1, False),
        "sta": (0, False),
        "adaspa": (1, False),
        "sta-narrow": (0, True),
        "other-x": (2, True),
    }


def test_a_chart_of_one_point_or_none():
    one = charts.scatter(METHODS[1:2], "psnr_db", "PSNR")
    assert "nan" not in one
    assert one.count("<g>") == 1
    none = charts.scatter(METHODS[:1], "psnr_db", "PSNR")
    assert "No method has both" in none


def test_numbers_as_people_read_them():
    assert markup.percent(0.342) == "34\u202f%"
    assert markup.percent(0.9951) == "99.5\u202f%"
    assert markup.percent(0.055) == "5.5\u202f%"
    assert markup.percent(None) == markup.number("x") == markup.times(math.nan) == "–"
    assert markup.number(5444128, 0) == "5\u202f444\u202f128"
    assert markup.number(math.inf) == "∞"
    assert markup.number(np.float32(1.5), 1) == "1.5"
    assert markup.times(1.836) == "1.84×"
    assert markup.milliseconds(812.4) == "812"
    assert markup.milliseconds(8.124) == "8.12"
