import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, _hopper, _interpret
from pallas_kernels.block_sparse_attention import mosaic_gpu, mosaic_gpu_vjp, reference
from tests import mosaic, tolerances
from tests.conformance.op_suite import Case
from tests.every_row import EveryRow
from tests.pallas_kernels.block_sparse_attention import mosaic_vjp_mutants


def case(name, block_q, block_kv, **fields):
    fields = {"head_dim": 64, "heads": 1, "mask_heads": 1} | fields
    return Case(name, block_q=block_q, block_kv=block_kv, **fields)


# Each pass with shared and with own lists; every class of block size, head dim and dtype; empty,
# single and full rows of the mask and of its transpose.
CASES = [
    (case("both shared", 128, 128, lq=384, lk=256, head_dim=128, empty_rows=True), "bfloat16"),
    (case("own keys, ragged", 256, 192, lq=300, lk=250, q_ragged=True, kv_ragged=True), "float16"),
    (case("own, ragged", 64, 64, lq=150, lk=100, batch=2, heads=2, full_rows=True, empty_rows=True,
          q_ragged=True, kv_ragged=True), "bfloat16"),
    (case("own, wide head", 64, 128, lq=128, lk=128, head_dim=128, density=1.0, scale=-0.1),
     "float16"),
    (case("own queries", 192, 256, lq=200, lk=256, heads=2, mask_heads=2, density=1.0,
          magnitude=4.0), "bfloat16"),
    (case("text rows", 384, 384, lq=400, lk=384, density=1.0, kv_ragged=True), "bfloat16"),
    (EveryRow.of("every row, own, wide head", 64, 64, 128), "float16"),
    (EveryRow.of("every row, shared", 128, 64, 64), "bfloat16"),
]  # fmt: skip
by_name = pytest.mark.parametrize(("case", "dtype"), CASES, ids=[c[0].name for c in CASES])
# The last config of each; tests/experiments/kernel_resources compiles all of them.
STRUCTURES = {(c.shared, c.sums): (d, c) for d, c in mosaic_gpu_vjp.shipped_configs()}
backward = jax.jit(mosaic_gpu_vjp.backward, static_argnums=0)


@mosaic.needs_interpreter
@by_name
def test_matches_float64_without_races_whatever_padding_holds(case, dtype):
    mask, dtype = jax.tree.map(jnp.asarray, case.mask()), jnp.dtype(dtype)
    q, k, v, d_out, d_lse = case.arrays(dtype)
    scale = case.scale or case.head_dim**-0.5
    out, lse = reference.block_sparse_attention(q, k, v, mask, scale=scale)
    keep = tolerances.token_keep(mask, case.lq, case.lk)
    assert keep.any(), "a mask that keeps nothing checks nothing"
    exact = tolerances.exact_attention(q, k, v, keep, scale, d_out, d_lse)
    live = np.broadcast_to(keep.any(-1), d_lse.shape)
    clean = jnp.where(live.swapaxes(1, 2)[..., None], d_out, jnp.zeros((), dtype))
    plain = tolerances.plain_attention(q, k, v, keep, scale, clean, jnp.where(live, d_lse, 0))

    nan = jnp.full((), np.nan, dtype)
    if case.q_ragged:
        real = np.asarray(mask.real_queries(case.lq))
        d_lse = jnp.where(real, d_lse, np.nan)
        q, d_out = (jnp.where(real.swapaxes(1, 2)[..., None], x, nan) for x in (q, d_out))
    if case.kv_ragged:
        real = np.asarray(mask.real_keys(case.lk)).swapaxes(1, 2)[..., None]
        k, v = (jnp.where(real, x, nan) for x in (k, v))
    arrays = q, k, v, out, lse, d_out, d_lse, mask
    grads, races_found = _interpret.run(backward, scale, *arrays, detect_races=True)
    assert not races_found
    for name, *values in zip(("dq", "dk", "dv"), grads, exact[2:], plain[2:], strict=True):
        assert values[0].dtype == dtype
        tolerances.assert_within_budget(*values, dtype, f"{case.name}: {name}")
    empty = np.broadcast_to(~keep.any(-1), lse.shape).swapaxes(1, 2)
    assert (np.asarray(grads[0])[empty] == 0).all()
    unread = np.broadcast_to(~keep.any(-2), (*lse.shape[:2], case.lk)).swapaxes(1, 2)
    assert all((np.asarray(grad)[unread] == 0).all() for grad in grads[1:])


@mosaic.needs_interpreter
def test_padded_keys_overflow_nowhere():
    # Every real logit is far below 0, so that exp(0 - lse) of a padded key has no finite value.
    q = jnp.full((1, 64, 1, 64), 4.0, jnp.float16)
    mask = BlockMask.full(1, 1, block_q=64, block_kv=64, kv_lengths=[5])
    out, lse = reference.block_sparse_attention(q, -q, q, mask, scale=1.0)
    assert lse.max() < -1000
    mask = jax.tree.map(jnp.asarray, mask)
    arrays = q, -q, q, out, lse, q, jnp.ones_like(lse), mask
    grads, _ = _interpret.run(backward, 1.0, *arrays)
    assert all(np.isfinite(np.asarray(grad, np.float32)).all() for grad in grads)
    np.testing.assert_allclose(np.asarray(grads[0], np.float32), -4.0, rtol=1e-2)


@mosaic.needs_interpreter
def test_is_the_derivative_of_the_kernel_with_the_same_bits():
    case = CASES[3][0]
    q, k, v, d_out, d_lse = case.arrays(jnp.bfloat16)
    mask = jax.tree.map(jnp.asarray, case.mask())

    def both(q, k, v, d_out, d_lse):
        attend = functools.partial(mosaic_gpu.attention, mask=mask, scale=0.1, num_sms=2)
        (out, lse), vjp = jax.vjp(attend, q, k, v)
        direct = mosaic_gpu_vjp.backward(0.1, q, k, v, out, lse, d_out, d_lse, mask)
        return vjp((d_out, d_lse)), direct

    (derived, direct), _ = _interpret.run(jax.jit(both), q, k, v, d_out, d_lse)
    for a, b in zip(derived, direct, strict=True):
        np.testing.assert_array_equal(a, b)


@mosaic.needs_interpreter
@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_barrier_is_needed(half):
    """Left out, each wait or arrival is noticed, though not always by what it would do on a GPU.

    Without an arrival the kernel hangs. Without most waits the interpreter stops at its own rule
    that every completion of a barrier be observed, which says nothing of races: so for "full" and
    "free". Without the wait for a consumer's "own" rows, or the fence after plain reads of statistics,
    there is a race.
    """
    sound = [(structure, mosaic.NOTHING) for structure in mosaic_vjp_mutants.CONFIGS]
    mutants = [*sound, *mosaic_vjp_mutants.MUTANTS[half::2]]
    ends = mosaic.verdicts(mosaic_vjp_mutants.__name__, mutants)
    assert [ends.pop(mutant) for mutant in sound] == ["clean"] * len(sound)
    unnoticed = [mutant for mutant, end in ends.items() if end == "clean"]
    assert not unnoticed


@mosaic.needs_interpreter
@pytest.mark.parametrize(("head_dim", "config"), STRUCTURES.values(), ids=str)
def test_lowers_for_cuda(head_dim, config):
    x = jax.ShapeDtypeStruct((1, 2 * config.rows, 2, head_dim), jnp.bfloat16)
    u = jax.ShapeDtypeStruct((1, 4 * config.tile, 2, head_dim), jnp.bfloat16)
    queries = x if config.sums == 1 else u
    stats = jax.ShapeDtypeStruct((1, 2, 2, queries.shape[1]), jnp.float32)
    mask = BlockMask.full(2, 2, block_q=config.rows, block_kv=2 * config.tile)
    lists = mosaic_gpu_vjp.plan_lists(mask, x.shape[1], u.shape[1], config)

    def call(x, u, stats):
        return mosaic_gpu_vjp.launch(0.1, config, [x, x], [u, u], stats, lists, clamp=True)

    assert "mosaic_gpu" in mosaic.lower_for_cuda(call, x, u, stats)


def test_shipped_configs_fit_in_shared_memory():
    for head_dim, config in mosaic_gpu_vjp.shipped_configs():
        assert config.smem_bytes(head_dim) <= _hopper.SMEM_BYTES
        assert config.stages >= 2


def test_refuses_other_blocks():
    with pytest.raises(NotImplementedError, match="multiples of 64 tokens, not 96 x 64"):
        mosaic_gpu_vjp.heuristics(64, 96, 64)
