import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, _hopper, block_sparse_attention
from pallas_kernels.block_sparse_attention import mosaic_gpu
from tests import mosaic

GEOMETRIES = [
    (d, q, kv)
    for d in _hopper.HEAD_DIMS
    for q, kv in [(64, 64), (64, 128), (128, 64), (128, 128), (192, 192), (256, 256), (384, 384)]
]


@mosaic.needs_interpreter
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("head_dim", "block_q", "block_kv"), GEOMETRIES)
def test_lowers_for_cuda(head_dim, block_q, block_kv, dtype):
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
    assert config.tile_q == (128 if block_q % 128 == 0 else block_q)
    assert config.smem_bytes(head_dim) <= _hopper.SMEM_BYTES
    # One more stage would not fit, or the rings are deep already.
    deeper = dataclasses.replace(config, stages=config.stages + 1)
    assert deeper.smem_bytes(head_dim) > _hopper.SMEM_BYTES or config.stages >= 3


def test_a_measured_table_overrides_the_heuristics(tmp_path):
    fields = {"tile_kv": 64, "stages": 3}
    table = {"128,128,128": fields}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    for given in (table, path, str(path)):
        assert mosaic_gpu.configure(128, 128, 128, given) == mosaic_gpu.Config(**fields)
        assert mosaic_gpu.configure(64, 128, 128, given) == mosaic_gpu.heuristics(64, 128, 128)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tile_kv": 128, "stages": 4}, "needs 328880 bytes of shared memory"),
        ({"tile_kv": 128, "stages": 1}, "at least 2 stages"),
        ({"tile_kv": 96, "stages": 2}, "do not divide the mask's blocks of 128 x 128"),
        ({"tile_kv": 64, "stages": 2, "consumers": 3}, "tiles of 192 x 64"),
    ],
)
def test_an_unfit_configuration_is_an_error(fields, reason):
    with pytest.raises(ValueError, match=reason):
        mosaic_gpu.configure(128, 128, 128, {"128,128,128": fields})


@pytest.mark.parametrize("traced", [False, True], ids=["host", "traced"])
@pytest.mark.parametrize("workers", [2, 7, 40])
def test_the_plan_takes_every_tile_once_and_long_ones_first(workers, traced):
    rng = np.random.default_rng(3)
    keep = rng.random((1, 3, 5, 30)) < rng.random((1, 3, 5, 1)) ** 3
    keep[:, :, 0] = True
    mask = BlockMask.from_dense(keep, block_q=128, block_kv=64)
    config = mosaic_gpu.Config(64, stages=2)

    def plan(mask):
        return mosaic_gpu.plan_work(mask, 2, 3, config, workers)

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
