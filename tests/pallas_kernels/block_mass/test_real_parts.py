import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gpu_check.shapes import SPARSE
from pallas_kernels.block_mass._real_parts import over_real_parts


def mass(q, k, lse, *, block_q, block_kv, q_lengths, kv_lengths):
    """In numpy: [B, H, Nq, Nk]."""
    real = [
        np.arange(block) < np.asarray(sizes)[..., None]
        for block, sizes in ((block_q, q_lengths), (block_kv, kv_lengths))
    ]
    real_q, real_k = (x.reshape(*x.shape[:2], -1) for x in real)
    q, k = (
        np.pad(np.asarray(x), ((0, 0), (0, n - x.shape[1]), (0, 0), (0, 0)))
        for x, n in ((q, real_q.shape[-1]), (k, real_k.shape[-1]))
    )
    lse = np.pad(np.asarray(lse), ((0, 0), (0, 0), (0, q.shape[1] - lse.shape[-1])))
    p = np.exp(0.3 * np.einsum("bqhd,bkhd->bhqk", q, k) - lse[..., None])
    p = np.where(real_q[..., None] & real_k[:, :, None], p, 0)
    return jnp.asarray(
        p.reshape(*p.shape[:2], -1, block_q, k.shape[1] // block_kv, block_kv).sum((3, 5))
    )


def lengths(rng, batch, count, block):
    """Of the last blocks nothing is real in any row; of others perhaps."""
    sizes = rng.integers(0, block + 1, (batch, 1, count), np.int32)
    sizes[..., -1] = 0
    sizes[..., 1] = block // 2 - 1
    return sizes


@pytest.mark.parametrize(
    ("block_q", "block_kv", "no_queries"), [(384, 256, False), (192, 384, True), (40, 24, False)]
)
def test_masses_are_those_of_all_tokens(block_q, block_kv, no_queries):
    rng = np.random.default_rng(0)
    lq, lk = 3 * block_q - 7, 3 * block_kv - block_kv // 2
    q, k = (jnp.asarray(rng.standard_normal((2, n, 1, 4)), jnp.float32) for n in (lq, lk))
    lse = jnp.asarray(rng.standard_normal((2, 1, lq)) + 5, jnp.float32)
    blocks = {"block_q": block_q, "block_kv": block_kv}
    sizes = {"q_lengths": lengths(rng, 2, 3, block_q), "kv_lengths": lengths(rng, 1, 3, block_kv)}
    if no_queries:
        sizes["q_lengths"] = np.zeros((1, 1, 3), np.int32)
    got = over_real_parts(mass, q, k, lse, **blocks, **sizes)
    np.testing.assert_allclose(got, mass(q, k, lse, **blocks, **sizes), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "pairs"), [("S6", 620 * 620), ("S1", 900 * 900)])
def test_tile_pairs_of_published_problems(name, pairs):
    """In pairs of 128 x 128 tokens: S6 has 720 x 720, of which 620 x 620 hold something."""
    case, seen = SPARSE[name], []

    def spy(q, k, lse, **how):
        seen.append((q.shape[1] // 128 * (k.shape[1] // 128), how["kv_lengths"] is None))
        shape = 1, 1, q.shape[1] // how["block_q"], k.shape[1] // how["block_kv"]
        return jnp.zeros(shape, jnp.float32)

    n = case.order.num_blocks
    sizes = dict.fromkeys(("q_lengths", "kv_lengths"), case.order.mask_lengths())
    blocks = {"block_q": 384, "block_kv": 384}
    q = jax.ShapeDtypeStruct((1, n * 384, 1, 4), jnp.float32)
    lse = jax.ShapeDtypeStruct((1, 1, n * 384), jnp.float32)
    run = functools.partial(over_real_parts, spy, **blocks, **sizes)
    assert jax.eval_shape(run, q, q, lse).shape == (1, 1, n, n)
    assert seen == [(pairs, name == "S1")]


def test_traced_lengths_leave_everything_in():
    def run(q, lse, lengths):
        blocks = {"block_q": 128, "block_kv": 128}
        sizes = {"q_lengths": lengths, "kv_lengths": lengths}

        def spy(q, k, lse, **how):
            assert q.shape[1] == k.shape[1] == 256
            return jnp.zeros((1, 1, 2, 2))

        return over_real_parts(spy, q, q, lse, **blocks, **sizes)

    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((1, 256, 1, 4), (1, 1, 256))]
    jax.eval_shape(run, *shapes, jax.ShapeDtypeStruct((1, 1, 2), "int32"))
