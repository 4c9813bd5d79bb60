import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, _hopper, _interpret, block_sparse_attention
from pallas_kernels.block_sparse_attention import mosaic_gpu, reference
from tests import mosaic, undropped

GEOMETRIES = [
    (d, q, kv)
    for d in _hopper.HEAD_DIMS
    for q, kv in [(64, 64), (64, 128), (128, 64), (128, 128), (192, 192), (256, 256), (384, 384)]
]


@mosaic.needs_interpreter
@pytest.mark.parametrize(
    ("head_dim", "block_q", "block_kv", "dtype"),
    [(128, 128, 128, "bfloat16"), (64, 64, 64, "float16"), (64, 192, 192, "bfloat16")],
)
def test_lowers_for_cuda(head_dim, block_q, block_kv, dtype):
    # One of each structure; tests/experiments/kernel_resources compiles all configurations.
    lq, lk = 2 * block_q, 2 * block_kv
    q, k = (jax.ShapeDtypeStruct((1, length, 2, head_dim), dtype) for length in (lq, lk))
    lengths = np.full((1, 1, 2), 40, np.int32)
    mask = BlockMask.full(
        2, 2, block_q=block_q, block_kv=block_kv, q_lengths=lengths, kv_lengths=lengths
    )
    text = mosaic.lower_for_cuda(
        lambda q, k, v: mosaic_gpu.attention(q, k, v, mask, scale=0.1), q, k, k
    )
    assert "mosaic_gpu" in text


@pytest.mark.parametrize(("head_dim", "block_q", "block_kv"), GEOMETRIES)
def test_heuristics_fit_the_blocks_and_shared_memory(head_dim, block_q, block_kv):
    config = mosaic_gpu.configure(head_dim, block_q, block_kv)
    thirds = block_q % 192 == 0 and (head_dim == 64 or block_q == 192)
    assert config.tile_q == (192 if thirds else min(block_q, 128))
    assert config.smem_bytes(head_dim) <= _hopper.SMEM_BYTES
    # One more stage would not fit, or the rings are deep already.
    deeper = dataclasses.replace(config, stages=config.stages + 1)
    assert deeper.smem_bytes(head_dim) > _hopper.SMEM_BYTES or config.stages >= 3


@pytest.mark.parametrize("traced", [False, True], ids=["host", "traced"])
@pytest.mark.parametrize("workers", [2, 7, 40])
def test_the_plan_takes_every_tile_once_and_long_ones_first(workers, traced):
    rng = np.random.default_rng(3)
    keep = rng.random((1, 3, 5, 30)) < rng.random((1, 3, 5, 1)) ** 3
    keep[:, :, 0] = True
    mask = BlockMask.from_dense(keep, block_q=128, block_kv=64)
    config = mosaic_gpu.Config(64, stages=2)

    def plan(mask):
        q, k = (jax.ShapeDtypeStruct((2, length, 3, 64), "bfloat16") for length in (640, 1920))
        lists = mosaic_gpu.plan_lists(mask, q, k, config)
        return mosaic_gpu.plan_work(lists, 2, 3, config, workers)

    tiles, turns = jax.jit(plan)(mask) if traced else plan(mask)
    taken = [np.asarray(row[:n]) for row, n in zip(tiles, turns, strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(taken)), np.arange(30))
    work = np.broadcast_to(mask.kv_counts, (2, 3, 5)).reshape(-1)
    assert all((np.diff(work[row]) <= 0).all() for row in taken)
    loads = [work[row].sum() for row in taken]
    # A list schedule never ends later than the mean load plus one longest item; ours estimates.
    assert max(loads) <= work.sum() / workers + work.max()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"block_q": 96}, "multiples of 64 tokens, not 96 x 128"),
        ({"head_dim": 80}, "not 80"),
        ({"dtype": "float32"}, "not float32"),
    ],
)
def test_refuses_what_it_has_no_kernel_for(changes, reason):
    fields = {"block_q": 128, "head_dim": 64, "dtype": "bfloat16"} | changes
    q = jnp.zeros((1, 2 * fields["block_q"], 1, fields["head_dim"]), fields["dtype"])
    mask = BlockMask.full(2, 1, block_q=fields["block_q"], block_kv=128)
    with pytest.raises(NotImplementedError, match=reason):
        mosaic_gpu.attention(q, q[:, :128], q[:, :128], mask, scale=1.0)


def test_on_a_cpu_the_default_order_falls_through():
    q = jnp.ones((1, 64, 1, 64), jnp.bfloat16)
    mask = BlockMask.full(1, 1, block_q=64, block_kv=64)
    assert block_sparse_attention(q, q, q, mask)[0].shape == q.shape
    with pytest.raises(NotImplementedError, match="mosaic_gpu needs"):
        block_sparse_attention(q, q, q, mask, implementation="mosaic_gpu")


def small(seed, *shape, dtype=jnp.bfloat16):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def repeated(q, k, v, d_out, masks, *, constant, wrap):
    """Gradients by q under vmap with a mask each, under vmap with one known mask, and under scan."""

    def loss(q, mask):
        out, lse = mosaic_gpu.attention(q, k, v, mask, scale=0.2, num_sms=2)
        return (out * d_out).sum(dtype=jnp.float32) + jnp.where(lse > -jnp.inf, lse, 0).sum()

    grad = jax.grad(wrap(loss))
    of_constant = functools.partial(grad, mask=constant)
    return jax.vmap(grad)(q, masks), jax.vmap(of_constant)(q), jax.lax.map(of_constant, q)


def transformed_arguments():
    q, k, v, d_out = (small(i, *(2,) * (i == 0), 2, 64, 1, 64) for i in range(4))
    k, v = (jnp.concatenate([x, -x], 1) for x in (k, v))
    keep = np.array([[[True, False]], [[False, True]], [[True, True]], [[False, False]]])
    masks = [BlockMask.from_dense(keep[i : i + 2, None], block_q=64, block_kv=64) for i in (0, 2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *masks)
    return (q, k, v, d_out, stacked), masks


@mosaic.needs_interpreter
def test_vmap_and_scan_change_no_bit():
    arguments, masks = transformed_arguments()
    q, k, v, d_out, _ = arguments

    def one(q, mask):
        attend = lambda q: mosaic_gpu.attention(q, k, v, mask, scale=0.2, num_sms=2)  # noqa: E731
        (_, lse), vjp = jax.vjp(attend, q)
        return vjp((d_out, jnp.where(lse > -jnp.inf, 1.0, 0.0)))[0]

    one = jax.jit(one)
    every = jax.jit(functools.partial(repeated, constant=masks[0], wrap=lambda f: f))
    got, _ = _interpret.run(every, *arguments)
    traced = [jax.tree.map(jnp.asarray, mask) for mask in masks]
    alone = [_interpret.run(one, q[i], traced[j])[0] for i, j in ((0, 0), (1, 0), (1, 1))]
    np.testing.assert_array_equal(got[0], jnp.stack([alone[0], alone[2]]))
    for constant in got[1:]:
        np.testing.assert_array_equal(constant, jnp.stack(alone[:2]))
    assert jnp.abs(got[0].astype(jnp.float32)).max() > 0.1


@mosaic.needs_interpreter
def test_vmap_scan_and_remat_lower_for_cuda():
    # Remat can only be lowered: JAX does not differentiate it around interpreted kernels.
    arguments, masks = transformed_arguments()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    every = functools.partial(repeated, constant=masks[0], wrap=jax.checkpoint)
    text = mosaic.lower_for_cuda(every, *shapes)
    assert "mosaic_gpu" in text


# Every structure of the forward kernel, with those of the backward passes that go with its blocks.
@mosaic.needs_interpreter
@pytest.mark.parametrize(
    ("block_q", "block_kv"), [(64, 64), pytest.param(128, 128, marks=pytest.mark.slow), (192, 64)]
)
def test_padding_reruns_and_other_heads_change_no_bit(block_q, block_kv):
    q, d_out = (small(i, 1, block_q, 2, 64) for i in (0, 1))
    k, v = (small(i, 1, 2 * block_kv, 2, 64) for i in (2, 3))
    d_lse = small(4, 1, 2, block_q, dtype=jnp.float32)
    keep = np.array([[[True, True]], [[False, True]]])
    mask = BlockMask.from_dense(
        keep, block_q=block_q, block_kv=block_kv,
        q_lengths=[block_q - 30], kv_lengths=[block_kv - 7, 40],
    )  # fmt: skip
    real = [
        np.asarray(f(x.shape[1]))[0, 0] for f, x in ((mask.real_queries, q), (mask.real_keys, k))
    ]

    @jax.jit
    def everything(q, k, v, d_out, d_lse, mask):
        attend = functools.partial(mosaic_gpu.attention, mask=mask, scale=0.2, num_sms=2)
        results, vjp = jax.vjp(attend, q, k, v)
        return *results, *vjp((d_out, d_lse))

    def run(garbage, heads):
        heads = np.array(heads)

        def spoil(x, real, axis):
            """x with the garbage, over and over, for its tokens that are not real."""
            axes = [-1 if i == axis else 1 for i in range(x.ndim)]
            bad = np.resize(np.asarray(garbage, np.float32), real.shape)
            return jnp.where(real.reshape(axes), x, jnp.asarray(bad, x.dtype).reshape(axes))

        arrays = [spoil(x, real[i], 1) for x, i in ((q, 0), (k, 1), (v, 1), (d_out, 0))]
        arrays = *(x[:, :, heads] for x in arrays), spoil(d_lse, real[0], 2)[:, heads]
        listed = jax.tree.map(jnp.asarray, mask.take_heads(heads))
        out, lse, *grads = _interpret.run(everything, *arrays, listed)[0]
        return out.swapaxes(1, 2), lse, *(x.swapaxes(1, 2) for x in grads)

    clean = run([0.0], [0, 1])
    again = run([np.nan, np.inf, -np.inf, 3e38, -3e38], [0, 1])
    alone = run([np.nan, np.inf, -np.inf, 3e38, -3e38], [1])
    for first, second, third in zip(clean, again, alone, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first[:, 1:], third)
        assert jnp.abs(first.astype(jnp.float32)).max() > 0


@mosaic.needs_interpreter
def test_logits_that_all_overflow_downwards_count_as_no_key():
    # Finite inputs whose products overflow; as in `reference`, weights of 0 sum to 0.
    q = jnp.ones((1, 64, 1, 64), jnp.bfloat16).at[:, 0].set(3e38)
    k, v = jnp.full_like(q, -3e2), small(0, *q.shape)
    mask = BlockMask.full(1, 1, block_q=64, block_kv=64)
    attend = jax.jit(functools.partial(mosaic_gpu.attention, mask=mask, scale=1.0, num_sms=1))
    (out, lse), _ = _interpret.run(attend, q, k, v)
    expected = reference.block_sparse_attention(q, k, v, mask, scale=1.0)
    assert lse[0, 0, 0] == expected[1][0, 0, 0] == -np.inf
    for got, want in zip((out, lse), expected, strict=True):
        np.testing.assert_allclose(
            *(np.asarray(x, np.float32) for x in (got, want)), rtol=0.01, atol=0.01
        )


# Parts of blocks and whole blocks that are empty, lists of one's own and shared ones.
@mosaic.needs_interpreter
@pytest.mark.parametrize(("block_q", "block_kv"), [(128, 256), (64, 64)])
def test_leaving_padding_out_changes_no_bit(block_q, block_kv):
    *arrays, mask = undropped.problem(block_q, block_kv, jnp.bfloat16, heads=1, head_dim=64)
    attend = functools.partial(mosaic_gpu.attention, scale=0.2, num_sms=3)

    def run(mask):
        call = jax.jit(undropped.everything(lambda q, k, v, mask: attend(q, k, v, mask)))
        return _interpret.run(call, *arrays, mask)[0]

    got = run(mask)
    with undropped.lists():
        expected = run(mask)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert jnp.abs(a.astype(jnp.float32)).max() > 0
