"""Names and layouts between our modules and checkpoints."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import layers
from models.keys import KeyTable, checkpoint_slots


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up = layers.Linear(3, 5, dtype=jnp.float32, rngs=rngs)
        self.conv = layers.Conv(2, 4, (1, 3, 2), dtype=jnp.float32, rngs=rngs)
        self.norm = layers.LayerNorm(4, eps=1e-6)
        self.table = nnx.Param(jnp.zeros((1, 6, 4)))


class Stack(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.words = layers.Embedding(7, 3, dtype=jnp.float32, rngs=rngs)


@pytest.fixture(scope="module")
def stack():
    return Stack(nnx.Rngs(0))


def test_names_follow_the_modules_and_the_table(stack):
    table = KeyTable({"blocks.*.up": "layers.*.net.0.proj", "blocks": "layers", "words": "shared"})
    slots = checkpoint_slots(stack, table)
    block = (
        "conv.bias",
        "conv.weight",
        "net.0.proj.bias",
        "net.0.proj.weight",
        "norm.bias",
        "norm.weight",
        "table",
    )
    assert sorted(slots) == sorted(
        [f"layers.{i}.{name}" for i in range(2) for name in block] + ["shared.weight"]
    )


def test_the_longest_rename_wins_and_stars_match_indices_only():
    table = KeyTable({"a.*": "x.*", "a.*.b": "y.*.z"})
    assert table.theirs(("a", 3, "b", "kernel")) == "y.3.z.weight"
    assert table.theirs(("a", 3, "c", "bias")) == "x.3.c.bias"
    assert table.theirs(("a", "q", "b", "bias")) == "a.q.b.bias"


def test_two_parameters_of_one_name_are_refused(stack):
    with pytest.raises(ValueError, match=r"two parameters are called x\.bias"):
        checkpoint_slots(stack, KeyTable({"blocks.*.up": "x"}))


@pytest.mark.parametrize(
    ("name", "theirs"), [("blocks.0.up.weight", (5, 3)), ("blocks.0.conv.weight", (4, 2, 1, 3, 2))]
)
def test_kernels_change_layout_and_come_back(stack, name, theirs):
    slot = checkpoint_slots(stack, KeyTable())[name]
    assert slot.shape == theirs
    tensor = np.arange(np.prod(theirs), dtype=np.float32).reshape(theirs)
    ours = slot.from_checkpoint(tensor)
    assert ours.shape == slot.parameter.shape
    # output channel 1, input channel 2 or 1, first tap
    assert ours[..., 1, 0].ravel()[0] == tensor[0, 1].ravel()[0]
    back = slot.to_checkpoint(ours)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, tensor)


def test_other_parameters_keep_theirs(stack):
    slot = checkpoint_slots(stack, KeyTable())["blocks.0.table"]
    tensor = np.ones((1, 6, 4), np.float32)
    assert slot.shape == (1, 6, 4)
    assert slot.from_checkpoint(tensor) is tensor
