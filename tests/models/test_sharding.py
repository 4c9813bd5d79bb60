"""Where weights go; that they are read so and give the same is in on_eight_devices/check_models.py."""

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from models.sharding import fully_sharded

AXES = ("data", "cfg", "seq")
MESH = AbstractMesh((1, 2, 4), AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((512, 2048), jax.P(None, AXES)),  # the longest axis
        ((2048, 512), jax.P(AXES)),
        ((1025, 512), jax.P(None, AXES)),  # the longest that divides by 8
        ((1025, 513), jax.P()),  # none does
        ((1, 2, 2, 16, 5120), jax.P(None, None, None, None, AXES)),
        ((5120,), jax.P()),  # too small to be worth a message
    ],
)
def test_large_tensors_are_cut_along_their_longest_axis(shape, spec):
    assert fully_sharded(MESH)("blocks.0.weight", shape).spec == spec
