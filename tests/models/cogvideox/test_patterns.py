"""CogVideoX with a pattern in every layer: text stands before the video, and both halves of it are checked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Attended, AttentionPattern, Phase, SparseAttention, StepContext
from sparsevdit_jax.patterns import AdaSpa, Dense, SlidingTile
from tests import tolerances
from tests.models import parity
from tests.models.cogvideox.tiny_models import inputs, load, roundings, run


@dataclasses.dataclass(frozen=True)
class Windows(AttentionPattern):
    """SlidingTile of odd windows once more, from the paper's rule, one token at a time; text keeps all."""

    tile: tuple
    window: tuple

    def compute(self, q, k, v, state, ctx):
        grid, text = ctx.grid, ctx.grid.text_len
        keep = np.ones((grid.num_tokens, grid.num_tokens), bool)
        tiles = grid.coordinates() // np.array(self.tile)
        last = tiles.max(0)
        half = np.minimum(np.array(self.window), last + 1) // 2
        centre = np.clip(tiles, half, last - half)
        keep[text:, text:] = (np.abs(centre[:, None] - tiles[None]) <= half).all(-1)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(keep[None, None], logits, -jnp.inf), axis=-1)
        return Attended(jnp.einsum("bhqk,bkhd->bqhd", weights, v), None, state)


def run_sparse(pattern, name="cogvideox_5b", phase=Phase.REUSE, text_lengths=None):
    model, given = load(name), inputs(parity.arrays(name, "a"))
    attention = SparseAttention.uniform(pattern, model.num_attention_layers)
    grid, config = model.grid(given["hidden_states"].shape), model.config
    states = attention.init(grid, batch=2, num_heads=config.num_heads, head_dim=config.head_dim)
    ctx = StepContext(grid, phase, text_lengths=text_lengths)
    out, new_states = run(model, given, states, ctx, attention=attention)
    assert jax.tree.structure(new_states) == jax.tree.structure(states)
    return out


def assert_is_dense(out, name, what, rows=slice(None)):
    """`out` is diffusers' output of case a, in `rows` of the batch."""
    case = parity.arrays(name, "a")
    n, more = roundings(load(name), inputs(case)), parity.of_angle(case["in/timestep"])
    parity.assert_close(out, case["out"][rows], n, what, more)


@pytest.mark.filterwarnings("ignore:SlidingTile window")
@pytest.mark.parametrize("name", ["cogvideox_2b", "cogvideox_5b", "cogvideox_15"])
def test_patterns_that_keep_everything_are_dense(name):
    for pattern in (Dense(), SlidingTile(tile=(2, 2, 2), window=(9, 9, 9))):
        assert_is_dense(run_sparse(pattern, name), name, str(pattern))


def test_sliding_tiles_on_a_canvas_that_they_do_not_divide():
    # 4 x 3 x 5 tokens in tiles of 2 x 2 x 2: the last row and column of tiles are ragged.
    tile, window = (2, 2, 2), (1, 1, 1)
    out = run_sparse(SlidingTile(tile=tile, window=window))
    n = roundings(load("cogvideox_5b"), inputs(parity.arrays("cogvideox_5b", "a")))
    tolerances.assert_rounding_apart(out, run_sparse(Windows(tile, window)), n, "windows")
    dense = parity.arrays("cogvideox_5b", "a")["out"]
    assert np.abs(out - dense).max() > 1e-2
    warm = run_sparse(SlidingTile(tile=tile, window=window), phase=Phase.DENSE)
    assert_is_dense(warm, "cogvideox_5b", "dense phase")


def test_a_search_keeps_the_structure_of_states():
    searched = run_sparse(AdaSpa(block=16), phase=Phase.FIRST_SEARCH)
    assert_is_dense(searched, "cogvideox_5b", "first search")  # fused with an exact step


def test_text_lengths_mask_text_with_and_without_patterns():
    name, lengths = "cogvideox_5b", np.array([4, 9], np.int32)
    model, case = load(name), parity.arrays(name, "a")
    given = inputs(case)
    ctx = StepContext(model.grid(given["hidden_states"].shape), Phase.DENSE, text_lengths=lengths)
    masked = run(model, given, (), ctx)
    sparse, n = run_sparse(Dense(), text_lengths=lengths), roundings(model, given)
    tolerances.assert_rounding_apart(sparse, masked, n, "text masked by a pattern")
    assert_is_dense(masked[1], name, "row whose text fills its room", rows=1)
    assert np.abs(masked[0] - case["out"][0]).max() > 1e-2
