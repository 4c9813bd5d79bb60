"""The problems are those that others published times for."""

import numpy as np
import pytest

from experiments.gpu_check.shapes import CASES, PEAK_TFLOPS


@pytest.mark.parametrize(
    ("name", "tokens", "density", "tflop", "floor_ms"),
    [
        ("S1", 115_200, 0.09, 14.68, 14.8),
        ("S2", 115_200, 0.4167, 67.95, 68.7),
        ("S3", 115_200, 1.0, 163.07, 164.8),
        ("S4", 69_120, 0.25, 29.35, 29.7),
        ("S4full", 69_120, 1.0, 117.4, 118.7),
        ("S5", 82_944, 0.25, 42.27, 42.7),
        ("V1", 49_152, 0.0833, 1.65, 1.67),
        ("V2", 49_152, 0.099, 1.47, 1.48),
        ("V4", 109_632, 0.0374, 1.61, 1.63),
        ("D1_16384_128", 16_384, 1.0, 2.20, 2.22),
    ],
)
def test_published_work(name, tokens, density, tflop, floor_ms):
    case = CASES[name]
    found = float(case.mask().density())
    assert case.tokens == tokens
    assert found == pytest.approx(density, rel=3e-3)  # written with three digits
    flops = case.flops(found)
    assert flops / 1e12 == pytest.approx(tflop, rel=6e-3)
    assert flops / PEAK_TFLOPS / 1e9 == pytest.approx(floor_ms, rel=1e-2)


@pytest.mark.parametrize("name", ["S6", "S6small"])
def test_canvases_that_do_not_divide_have_about_a_tenth(name):
    case = CASES[name]
    assert case.slots > case.tokens
    assert 0.08 < float(case.mask().density()) < 0.13
    assert case.mask().kv_lengths is not None


@pytest.mark.parametrize("name", CASES)
def test_small_likenesses(name):
    case, small = CASES[name], CASES[name].small()
    assert small.slots <= 4096 or name.startswith("D1")
    mask = small.mask()
    assert (mask.kv_lengths is None) == (small.slots == small.tokens)
    assert (float(mask.density()) == 1) == (name in ("S3", "S4full") or name.startswith("D1"))
    assert mask.num_q_blocks * mask.block_q >= small.slots
    assert small.head_dim == case.head_dim


def test_lists_are_ascending_and_distinct():
    mask = CASES["V1"].small().mask()
    assert (np.diff(mask.kv_indices, axis=-1) > 0).all()
