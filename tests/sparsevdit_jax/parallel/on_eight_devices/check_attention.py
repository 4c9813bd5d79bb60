"""Every pattern on a mesh gives what it gives on one device, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid, parallel
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    Skip,
    SlidingTile,
    Table,
)
from tests.attending import attended

GRID = VideoGrid(5, 6, 7, text_len=5)  # 215 tokens; nothing divides by anything
TILE, BATCH, DIM = (2, 3, 4), 2, 16

ADASPA = AdaSpa(density=0.3, block=16)
TABLE = Table(
    (Dense(), SlidingTile(TILE, (1, 1, 1)), SlidingTile(TILE, (3, 1, 1)), Skip()),
    ((0, 1, 2, 3, 1), (3, 1, 2, 0, 2)),
)
BANDS = Diagonal(0.3, block=16), MultiDiagonal(0.3, block=16)
MODES = PerHead.of((ADASPA, BANDS[0], BANDS[1], ADASPA, BANDS[1]))
WINDOWS = SlidingTile(TILE, ((3, 1, 1), (1, 1, 1), (3, 2, 2), (1, 2, 2), (3, 1, 2)))
SEQ, BOTH = {"seq": 8}, {"cfg": 2, "seq": 4}

# heads, axes: 5 heads on 4 devices are padded, on 8 they are fewer than devices.
CASES = {
    "dense, rows alone": (Dense(), 3, {"data": 2}),
    "dense": (Dense(), 5, BOTH),
    "dense in a ring": (Dense(), 5, SEQ),
    "windows": (WINDOWS, 5, BOTH),
    "windows in a ring": (WINDOWS, 5, SEQ),
    "one window": (SlidingTile(TILE, (1, 3, 1)), 8, SEQ),
    "adaspa": (ADASPA, 8, SEQ),
    "adaspa, padded heads": (ADASPA, 5, BOTH),
    "adaspa in a ring": (ADASPA, 5, SEQ),
    "modes": (MODES, 5, BOTH),
    "table": (TABLE, 5, BOTH),
    "table in a ring": (TABLE, 5, SEQ),
}


def arrays(heads):
    rng = np.random.default_rng(0)
    shape = (BATCH, GRID.num_tokens, heads, DIM)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(4)]


@functools.partial(jax.jit, static_argnums=0)
def run(pattern, q, k, v, d_out):
    """Output of a search, of a step after it, the state, and the gradient through that step."""
    state = pattern.init(GRID, batch=BATCH, num_heads=q.shape[2], head_dim=DIM)
    ctx = functools.partial(StepContext, GRID, text_lengths=jnp.asarray([3, 5], np.int32), step=1)
    searched, _, state = attended(pattern, q, k, v, state, ctx(Phase.FIRST_SEARCH))

    def loss(q, k, v):
        out, *_ = attended(pattern, q, k, v, state, ctx(Phase.REUSE))
        return (out * d_out).sum(), out

    (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return searched, out, state, grads


# Each way over devices and each kind of pattern (AdaSpa's first search is dense in the ring, too; a mixture of modes
# is in check_engine.py); the other pairs of them are for make test-all.
FEW = {"dense", "windows", "adaspa, padded heads", "adaspa in a ring", "table"}


@pytest.mark.parametrize(
    "name",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_values_are_those_of_one_device(name):
    pattern, heads, axes = CASES[name]
    inputs = arrays(heads)
    expected = run(pattern, *inputs)
    with jax.set_mesh(parallel.make_mesh(**axes)):
        found = run(pattern, *inputs)
    # Whole heads are reduced in one order wherever they are. A ring adds up to 8 partial results,
    # each a rounding of logit, exponential, output and sum; a gradient is a sum of up to 215 products.
    eps = np.finfo(np.float32).eps
    for a, b in zip(jax.tree.leaves(found[:3]), jax.tree.leaves(expected[:3]), strict=True):
        if "ring" in name and a.dtype == np.float32:
            np.testing.assert_allclose(
                a, b, rtol=0, atol=4 * 8 * eps * np.abs(b[np.isfinite(b)]).max()
            )
        else:
            np.testing.assert_array_equal(a, b)
    for a, b in zip(found[3], expected[3], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=np.sqrt(215) * eps * np.abs(b).max())


def test_state_lies_with_its_heads():
    @jax.jit
    def search(q, k, v):
        state = ADASPA.init(GRID, batch=BATCH, num_heads=8, head_dim=DIM)
        return attended(ADASPA, q, k, v, state, StepContext(GRID, Phase.FIRST_SEARCH))[2]

    with jax.set_mesh(parallel.make_mesh(seq=8)):
        state = search(*arrays(8)[:3])
    for array in (state.lse, state.mask.kv_indices, state.mask.kv_counts):
        assert {shard.data.shape[1] for shard in array.addressable_shards} == {1}


def test_only_what_attends_travels():
    """The collectives of a step are the four exchanges, of as many bytes as the formula says."""
    q, k, v, _ = arrays(8)
    mesh = parallel.make_mesh(seq=8)
    place = jax.NamedSharding(mesh, jax.P(None, "seq"))
    length = -(-GRID.num_tokens // 8) * 8
    q, k, v = (jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0), (0, 0))) for x in (q, k, v))
    pattern = SlidingTile((2, 2, 2), (3, 3, 3))
    grid = VideoGrid(length // 8, 2, 4)

    @functools.partial(jax.jit, in_shardings=(place,) * 3, out_shardings=place)
    def step(q, k, v):
        return attended(pattern, q, k, v, (), StepContext(grid))[0]

    with jax.set_mesh(mesh):
        text = step.lower(q, k, v).compile().as_text()
    sent = [line for line in text.splitlines() if " all-to-all(" in line]
    others = ("all-gather(", "all-reduce(", "collective-permute(", "reduce-scatter(")
    assert len(sent) == 4
    assert not [name for name in others if f" {name}" in text]


def test_rows_that_do_not_divide_are_refused():
    q, k, v, _ = (x[:1] for x in arrays(4))
    with (
        jax.set_mesh(parallel.make_mesh(cfg=2, seq=4)),
        pytest.raises(ValueError, match="1 batch rows cannot be sharded evenly over the 2 devices"),
    ):
        attended(Dense(), q, k, v, (), StepContext(GRID, Phase.DENSE))
