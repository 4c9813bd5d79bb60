import numpy as np
import pytest

from sparsevdit_jax import codec
from sparsevdit_jax.distill import Recorded
from sparsevdit_jax.patterns import Diagonal, PerHead, Skip, VerticalStripe
from tests.sparsevdit_jax.test_pattern import Own


@pytest.mark.parametrize(
    "pattern",
    [
        VerticalStripe(0.5, 8),
        VerticalStripe(columns=(1, 2)),
        PerHead(((Skip(), (0,)), (Diagonal(0.5), (1,)))),
    ],
)
def test_round_trip(pattern):
    assert codec.decode(codec.encode(pattern)) == pattern


def test_what_cannot_be_written():
    with pytest.raises(ValueError, match=r"Own lives in .*test_pattern; only patterns of"):
        codec.encode(Own(3))
    with pytest.raises(
        ValueError, match=r"Recorded lives in sparsevdit_jax.distill; only patterns"
    ):
        codec.encode(Recorded(Skip()))
    with pytest.raises(ValueError, match="of type ndarray cannot be written as JSON"):
        codec.encode(np.zeros(1))


@pytest.mark.parametrize("name", [None, 3, "Dense", "per_head.BlockMask", "nothing.Here", "a.b.C"])
def test_names_that_are_no_pattern(name):
    with pytest.raises(ValueError, match=r"unknown pattern .* such as 'sliding_tile.SlidingTile'"):
        codec.decode({"pattern": name})


def test_fields_of_the_wrong_kind():
    with pytest.raises(ValueError, match="Diagonal cannot be made from"):
        codec.decode({"pattern": "diagonal.Diagonal", "density": "much"})
