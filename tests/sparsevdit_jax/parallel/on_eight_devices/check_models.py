"""The models on a mesh: the values of one device, and no traffic but what attention needs."""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.kernel_resources.collectives import count
from models import load_transformer, save_transformer, sharding
from models.cogvideox import CogVideoXConfig, CogVideoXTransformer
from models.hunyuan_video import HunyuanVideoConfig, HunyuanVideoTransformer
from models.wan import WanConfig, WanTransformer
from sparsevdit_jax import Phase, SparseAttention, StepContext, parallel
from sparsevdit_jax.patterns import AdaSpa, SlidingTile
from tests.models.random_weights import random_model

HEADS, TEXT, WIDTH = 4, 8, 24
LATENT = (2, 16, 8, 8, 12)  # 8 x 4 x 6 tokens of a 2 x 2 patch


def wan():
    config = WanConfig(
        num_attention_heads=HEADS, attention_head_dim=16, ffn_dim=96, num_layers=2, text_dim=WIDTH,
        freq_dim=32,
    )  # fmt: skip
    model = random_model(WanTransformer, config)
    return model, {"encoder_hidden_states": draw(2, TEXT, WIDTH)}, model.grid(LATENT)


def hunyuan_video():
    config = HunyuanVideoConfig(
        num_attention_heads=HEADS, attention_head_dim=16, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=WIDTH, pooled_projection_dim=12, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    model = random_model(HunyuanVideoTransformer, config)
    inputs = {
        "encoder_hidden_states": draw(2, TEXT, WIDTH),
        "encoder_attention_mask": jnp.asarray(np.arange(TEXT) < np.array([[5], [8]]), np.int32),
        "pooled_projections": draw(2, 12),
        "guidance": jnp.full(2, 6000.0),
    }
    return model, inputs, model.grid(LATENT, TEXT)


def cogvideox():
    config = CogVideoXConfig(
        num_attention_heads=HEADS, attention_head_dim=16, time_embed_dim=16, text_embed_dim=WIDTH,
        num_layers=2, sample_width=12, sample_height=8, sample_frames=29, max_text_seq_length=TEXT,
    )  # fmt: skip
    model = random_model(CogVideoXTransformer, config)
    inputs = {"encoder_hidden_states": draw(2, TEXT, WIDTH)}
    return model, inputs, model.grid((2, 8, 16, 8, 12), TEXT)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


class Spread(NamedTuple):
    """A jitted step, its model and inputs, the result of one device, and the program for eight."""

    step: Callable
    model: nnx.Module
    inputs: dict
    tokens: int
    expected: jax.Array
    program: Any


@functools.cache  # tests of one module come one after the other
def spread(make) -> Spread:
    """Layers take two patterns in turn, one of which searches."""
    model, inputs, grid = make()
    shape = (2, 8, 16, 8, 12) if make is cogvideox else LATENT
    inputs |= {"hidden_states": draw(*shape, seed=1), "timestep": jnp.full(2, 500.0)}
    layers = model.num_attention_layers
    patterns = SlidingTile((2, 2, 2), (3, 3, 3)), AdaSpa(density=0.3, block=16)
    attention = SparseAttention(tuple(patterns[i % 2] for i in range(layers)))

    @jax.jit
    def step(model, inputs):
        states = attention.init(grid, batch=2, num_heads=HEADS, head_dim=16)
        ctx = StepContext(grid, Phase.SEARCH, step=1)
        return model(**inputs, attention=attention, states=states, ctx=ctx).sample

    expected = step(model, inputs)
    with jax.set_mesh(MESH):
        program = step.lower(model, inputs).compile()
    return Spread(step, model, inputs, grid.num_tokens, expected, program)


MODELS = pytest.mark.parametrize("make", [wan, hunyuan_video, cogvideox])
MESH = parallel.make_mesh(cfg=2, seq=4)


def rounding(expected):
    """Products over at most 256 numbers round differently in pieces of another shape, in 4 layers."""
    return 4 * np.sqrt(256) * np.finfo(np.float32).eps * np.abs(expected).max()


@MODELS
def test_a_step_is_that_of_one_device(make):
    of = spread(make)
    with jax.set_mesh(MESH):
        found = of.program(of.model, of.inputs)
    np.testing.assert_allclose(found, of.expected, rtol=0, atol=rounding(of.expected))


@MODELS
def test_only_what_attends_and_a_few_tokens_of_text_travel(make):
    of = spread(make)
    program = of.program.as_text()
    layers, share = of.model.num_attention_layers, -(-of.tokens // 4)
    exchanged = {"count": 4 * layers, "bytes": 4 * layers * share * HEADS * 16 * 4}
    assert count(program)["all-to-all"] == exchanged
    moved = re.findall(
        r"= f32\[1,(\d+),(?:64|4,16)\]\S* (?:all-gather|collective-permute)\(", program
    )
    assert (make is wan) == (not moved)
    assert all(int(tokens) <= TEXT < share for tokens in moved)


def test_weights_lie_in_parts_and_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST", 256)  # the tiny model's matrices count as large
    step, model, inputs, _, expected, _ = spread(wan)
    save_transformer(model, tmp_path / "transformer")
    mesh = parallel.make_mesh(seq=4, data=2)
    in_parts = load_transformer(tmp_path, sharding=sharding.fully_sharded(mesh))
    kernel = in_parts.blocks[0].attn1.to_q.kernel[...]
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 8}
    held = sum(w.addressable_shards[0].data.nbytes for w in jax.tree.leaves(in_parts))
    assert held < sum(w.nbytes for w in jax.tree.leaves(model)) / 4
    with jax.set_mesh(mesh):
        program = step.lower(in_parts, inputs).compile()
        found = program(in_parts, inputs)
    # Blocks gather their weights; the layers around them may add up partial products instead.
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(expected))
    assert len(re.findall(r" all-gather\(", program.as_text())) >= 10 * len(model.blocks)
