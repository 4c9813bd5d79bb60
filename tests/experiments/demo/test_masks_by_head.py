import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.demo import masks_by_head
from experiments.demo.masks_by_head import density, head_masks, head_quality
from sparsevdit_jax import Phase, StepContext, VideoGrid, metrics
from sparsevdit_jax.patterns import AdaSpa, Dense, MultiDiagonal, PerHead, Skip, SlidingTile
from tests.attending import jitted

GRID = VideoGrid(4, 4, 8, text_len=3)
HEADS = 4
PATTERN = PerHead(
    (
        (AdaSpa(density=0.3, block=8), (0,)),
        (SlidingTile(tile=(2, 2, 2), window=(1, 3, 3)), (3,)),
        (MultiDiagonal(density=0.4, block=8), (1,)),
        (Dense(), (2,)),
    )
)


@pytest.fixture(scope="module")
def found():
    """(state after a search, q k v, the library's own measurement)."""
    keys = jax.random.split(jax.random.key(0), 3)
    qkv = [jax.random.normal(k, (1, GRID.num_tokens, HEADS, 16), jnp.float32) for k in keys]
    state = PATTERN.init(GRID, batch=1, num_heads=HEADS, head_dim=16)
    state = jitted(PATTERN)(*qkv, state, StepContext(GRID, Phase.FIRST_SEARCH))[2]
    measure = jax.jit(metrics.measure, static_argnames="pattern")
    measured = measure(*qkv, state, StepContext(GRID, Phase.REUSE), pattern=PATTERN)
    return state, qkv, measured


def test_masks_measure_what_the_library_measures(found):
    """With every query looked at; orders, borders, text and heads without a mask are all in one layer."""
    state, qkv, measured = found
    own = head_masks(PATTERN, state, GRID, num_heads=HEADS, step=0)
    quality = head_quality(own, qkv, stride=1)
    wanted = metrics.density(PATTERN, GRID, num_heads=HEADS, state=state)
    np.testing.assert_allclose(quality["density"], wanted, rtol=1e-6)
    np.testing.assert_allclose(quality["recall"], measured["recall"][0], rtol=1e-5)
    np.testing.assert_allclose(quality["error"], measured["error"][0], rtol=1e-4, atol=1e-6)


def test_a_skipped_head_keeps_nothing(found):
    _, qkv, _ = found
    own = head_masks(Skip(), (), GRID, num_heads=HEADS, step=0)
    assert [density(mask) for mask in own] == [0] * HEADS
    quality = head_quality(own, qkv, stride=1)
    assert quality["recall"].tolist() == [0] * HEADS
    np.testing.assert_allclose(quality["error"], 1, rtol=1e-6)


def test_the_queries_looked_at_stand_in_every_row_and_column_of_the_demos_canvas():
    tokens = np.arange(0, 16**3, masks_by_head.STRIDE)
    rows, columns = (tokens // 16) % 16, tokens % 16
    assert {(r % 4, c % 4) for r, c in zip(rows, columns, strict=True)} == {
        (r, c) for r in range(4) for c in range(4)
    }
    assert len(set(columns)) == len(set(rows)) == 16
