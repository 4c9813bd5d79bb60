import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, SparseAttention, StepContext, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import Monarch
from tests.attending import attended
from tests.sparsevdit_jax import oracles


def run(pattern, grid, qkv, lengths=None, phase=Phase.REUSE):
    lengths = None if lengths is None else np.asarray(lengths, np.int32)
    ctx = StepContext(grid, phase, text_lengths=lengths)
    return jax.jit(functools.partial(attended, pattern))(*qkv, (), ctx)[0]


def draw(grid, batch=1, heads=1, dim=8):
    return jax.random.normal(jax.random.key(3), (3, batch, grid.num_tokens, heads, dim))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def truth(pattern, grid, qkv):
    """Out [L, D] of one head without text on a canvas that divides, query by query: every place (tile, row, column)
    is a key of a dictionary.
    """
    q, k, v = (np.asarray(x, np.float64)[0, :, 0] for x in qkv)
    scale = q.shape[-1] ** -0.5
    tied, rows, columns = pattern.tile_on(grid)
    place = {}
    for token, (f, y, x) in enumerate(grid.coordinates()):
        tile = (f // tied, y // rows, x // columns)
        place[tile, (f % tied) * rows + y % rows, x % columns] = token
    tiles = sorted({tile for tile, _, _ in place})
    b1, b2 = tied * rows, columns
    out = np.zeros_like(q)
    for a in tiles:
        last = grid.frames
        if pattern.causal_frames:
            last = (a[0] * tied // pattern.causal_frames + 1) * pattern.causal_frames
        seen = [f for f in tiles if f[0] * tied < last]
        for j in range(b2):
            looking = {(f, i): q[place[a, i, j]] for f in seen for i in range(b1)}
            total = dict.fromkeys(looking, 1.0)
            for _ in range(pattern.iterations):
                mixed, bias, values = [], [], []
                for f in seen:
                    for i in range(b1):
                        row = [place[f, i, x] for x in range(b2)]
                        logits = k[row] @ looking[f, i] * scale
                        if pattern.iterations > 1:
                            logits = logits * min(1 / (total[f, i] + 1e-6), 1e4)
                        r = softmax(logits)
                        mixed.append(r @ k[row])
                        bias.append((r * np.log(r)).sum())
                        values.append(r @ v[row])
                weights = {}
                for i in range(b1):
                    query = q[place[a, i, j]]
                    weights[i] = softmax(np.array(mixed) @ query * scale - np.array(bias))
                    out[place[a, i, j]] = weights[i] @ np.array(values)
                for n, key in enumerate(looking):
                    looking[key] = sum(weights[i][n] * q[place[a, i, j]] for i in range(b1))
                    total[key] = sum(weights[i][n] for i in range(b1))
    return out


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (Monarch(), (2, 3, 4)),
        (Monarch(3, 2, 1, 2), (4, 2, 4)),
        (Monarch(2, 1, 3, 1, causal_frames=2), (4, 4, 3)),  # 4 rows make two parts, not three
    ],
)
def test_equals_loops(pattern, shape):
    grid = VideoGrid(*shape)
    qkv = draw(grid)
    found = run(pattern, grid, qkv)[0, :, 0]
    np.testing.assert_allclose(found, truth(pattern, grid, qkv), rtol=2e-5, atol=2e-5)


EXACT = {
    "one column": (Monarch(width_parts=4), VideoGrid(2, 3, 4)),
    "one row, ragged": (Monarch(1, 1, 5, 2), VideoGrid(2, 5, 5, 4, text_first=True)),
    "one token": (Monarch(), VideoGrid(1, 1, 1)),
}


@pytest.mark.parametrize("name", EXACT)
def test_tiles_of_one_row_or_column_are_exact(name):
    pattern, grid = EXACT[name]
    lengths = (grid.text_len // 2, grid.text_len) if grid.text_len else None
    qkv = draw(grid, batch=2, heads=2)
    real = oracles.real_tokens(grid, lengths, 2)
    keep = real[:, None, :, None] & real[:, None, None]
    expected = oracles.masked_attention(*qkv, keep)[0]
    found = run(pattern, grid, qkv, lengths)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_gradients_are_those_of_attention_where_it_is_exact():
    pattern, grid = EXACT["one row, ragged"]
    qkv = draw(grid)

    def loss(qkv, phase):
        out = attended(pattern, *qkv, (), StepContext(grid, phase))[0]
        return (out * jnp.cos(jnp.arange(out.size, dtype=np.float32)).reshape(out.shape)).sum()

    found, expected = (
        jax.jit(jax.grad(functools.partial(loss, phase=p)))(qkv) for p in (Phase.REUSE, Phase.DENSE)
    )
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


RAGGED = VideoGrid(5, 4, 7, 6)
COARSE = Monarch(2, 2, 3, 2)


@pytest.fixture(scope="module")
def ragged():
    """(qkv, out) of a canvas that no tile divides, with text."""
    qkv = draw(RAGGED, batch=2, heads=2)
    return qkv, run(COARSE, RAGGED, qkv, (2, 6))


def test_weights_sum_to_one_on_any_canvas(ragged):
    qkv, _ = ragged
    out = run(COARSE, RAGGED, (*qkv[:2], jnp.ones_like(qkv[2])), (2, 6))
    real = oracles.real_tokens(RAGGED, (2, 6), 2)
    np.testing.assert_allclose(out[real], 1, rtol=1e-5)
    assert not np.any(np.asarray(out)[~real])


def test_text_beyond_its_length_never_matters(ragged):
    qkv, out = ragged
    real = oracles.real_tokens(RAGGED, (2, 6), 2)
    noise = jnp.where(real[None, :, :, None, None], qkv, 1e4 * qkv[::-1])
    np.testing.assert_array_equal(run(COARSE, RAGGED, noise, (2, 6)), out)


def test_rows_and_heads_are_independent(ragged):
    qkv, out = ragged
    again = run(COARSE, RAGGED, qkv[:, ::-1, :, ::-1], (6, 2))
    np.testing.assert_allclose(again[::-1, :, ::-1], out, rtol=1e-6, atol=1e-6)


def test_dense_steps_are_exact(ragged):
    qkv, _ = ragged
    real = oracles.real_tokens(RAGGED, (2, 6), 2)
    keep = real[:, None, :, None] & real[:, None, None]
    out = run(COARSE, RAGGED, qkv, (2, 6), Phase.DENSE)
    expected = oracles.masked_attention(*qkv, keep)[0]
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)


def test_half_precision(ragged):
    qkv, out = ragged
    found = run(COARSE, RAGGED, qkv.astype(jnp.bfloat16), (2, 6))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), out, atol=0.05)


def test_density_is_the_effective_one():
    density = Monarch().density_on(VideoGrid(21, 30, 52), 2)
    np.testing.assert_allclose(density, 1 / 30 + 1 / 52, rtol=1e-6)
    assert Monarch().density_on(VideoGrid(3, 1, 8), 1) == 1
    with_text = Monarch().density_on(VideoGrid(2, 4, 4, 32), 1)
    np.testing.assert_allclose(with_text, 1 - 0.25 * 0.5, rtol=1e-6)


def test_json_round_trip():
    attention = SparseAttention.uniform(Monarch(2, 2, causal_frames=4), 3, StepSchedule(4))
    assert SparseAttention.from_json(attention.to_json()) == attention


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(iterations=0), "iterations=0 must be a whole number of at least 1"),
        (dict(tied_frames=0), "tied_frames=0 must be a whole number of at least 1"),
        (dict(height_parts=1.5), "height_parts=1.5 must be a whole number"),
        (dict(width_parts=0), "width_parts=0 must be a whole number of at least 1"),
        (dict(causal_frames=0), "causal_frames=0 must be a whole number of at least 1"),
        (dict(tied_frames=2, causal_frames=3), "causal_frames=3 must be a multiple of"),
    ],
)
def test_bad_fields(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Monarch(**kwargs)
