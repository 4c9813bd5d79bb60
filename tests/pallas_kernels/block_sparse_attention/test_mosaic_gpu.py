import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, _hopper, _interpret, block_sparse_attention
from pallas_kernels.block_sparse_attention import mosaic_gpu
from tests import mosaic, tolerances
from tests.conformance.op_suite import Case
from tests.pallas_kernels.block_sparse_attention import mosaic_mutants

GEOMETRIES = [
    (d, q, kv)
    for d in _hopper.HEAD_DIMS
    for q, kv in [(64, 64), (64, 128), (128, 64), (128, 128), (192, 192), (256, 256), (384, 384)]
]


def case(name, block_q, block_kv, **fields):
    fields = {"head_dim": 64, "heads": 1, "mask_heads": 1} | fields
    return Case(name, block_q=block_q, block_kv=block_kv, **fields)


# (case, dtype, multiprocessors). Every structure, class of block size, head dim and dtype; empty,
# single and full rows; more and fewer items than multiprocessors.
CASES = [
    (case("shared", 128, 128, lq=512, lk=384, head_dim=128, empty_rows=True), "bfloat16", 3),
    (case("shared, ragged", 256, 192, lq=300, lk=500, q_ragged=True, kv_ragged=True), "float16", 8),
    (case("own, ragged", 64, 64, lq=300, lk=200, batch=2, heads=2, full_rows=True, empty_rows=True,
          density=0.4, q_ragged=True, kv_ragged=True), "bfloat16", 2),
    (case("own, wide head", 64, 128, lq=192, lk=256, head_dim=128, scale=-0.1), "float16", 1),
    (case("three consumers", 192, 64, lq=384, lk=190, heads=2, mask_heads=2, kv_ragged=True,
          magnitude=4.0), "bfloat16", 1),
    (case("text rows", 384, 384, lq=400, lk=384, density=1.0, kv_ragged=True), "bfloat16", 2),
]  # fmt: skip


@functools.partial(jax.jit, static_argnames=("scale", "num_sms"))
def attend(q, k, v, mask, *, scale, num_sms):
    return mosaic_gpu.attention(q, k, v, mask, scale=scale, num_sms=num_sms)


@mosaic.needs_interpreter
@pytest.mark.parametrize(("case", "dtype", "num_sms"), CASES, ids=[c[0].name for c in CASES])
def test_matches_float64_without_races_whatever_padding_holds(case, dtype, num_sms):
    mask, dtype = case.mask(), jnp.dtype(dtype)
    q, k, v, d_out, d_lse = case.arrays(dtype)
    scale = case.scale or case.head_dim**-0.5
    if case.q_ragged:
        real = np.asarray(mask.real_queries(case.lq)).swapaxes(1, 2)[..., None]
        q = jnp.where(real, q, jnp.asarray(np.nan, dtype))
    if case.kv_ragged:
        real = np.asarray(mask.real_keys(case.lk)).swapaxes(1, 2)[..., None]
        k, v = (jnp.where(real, x, jnp.asarray(np.nan, dtype)) for x in (k, v))
    (out, lse), races_found = _interpret.run(
        attend, q, k, v, mask, scale=scale, num_sms=num_sms, detect_races=True
    )
    assert not races_found
    assert out.dtype == dtype
    assert lse.dtype == jnp.float32
    q, k, v, *_ = case.arrays(dtype)
    keep = tolerances.token_keep(mask, case.lq, case.lk)
    exact = tolerances.exact_attention(q, k, v, keep, scale, d_out, d_lse)
    plain = tolerances.plain_attention(q, k, v, keep, scale, d_out, d_lse)
    tolerances.assert_within_budget(out, exact[0], plain[0], dtype, f"{case.name}: out")
    tolerances.assert_within_budget(lse, exact[1], plain[1], jnp.float32, f"{case.name}: lse")
    empty = np.broadcast_to(~keep.any(-1), lse.shape).swapaxes(1, 2)
    assert (np.asarray(out)[empty] == 0).all()


@mosaic.needs_interpreter
def test_every_barrier_is_needed():
    sound = [(structure, "nothing") for structure in mosaic_mutants.CONFIGS]
    ends = mosaic.verdicts(mosaic_mutants.__name__, [*sound, *mosaic_mutants.MUTANTS])
    assert [ends.pop(mutant) for mutant in sound] == ["clean"] * len(sound)
    unnoticed = [mutant for mutant, end in ends.items() if end == "clean"]
    assert not unnoticed


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
