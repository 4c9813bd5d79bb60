import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _interpret
from pallas_kernels.block_sparse_attention import mosaic_gpu
from tests import mosaic, tolerances
from tests.conformance.op_suite import Case
from tests.every_row import EveryRow
from tests.pallas_kernels.block_sparse_attention import mosaic_mutants

pytestmark = mosaic.needs_interpreter


def case(name, block_q, block_kv, **fields):
    fields = {"head_dim": 64, "heads": 1, "mask_heads": 1} | fields
    return Case(name, block_q=block_q, block_kv=block_kv, **fields)


# (case, dtype, multiprocessors). Every structure, class of block size, head dim and dtype; empty,
# single and full rows; more and fewer items than multiprocessors.
CASES = [
    (case("shared", 128, 128, lq=256, lk=384, head_dim=128, density=0.7, empty_rows=True), "bfloat16", 3),
    (case("shared, ragged", 256, 192, lq=150, lk=200, density=1.0,
          q_ragged=True, kv_ragged=True), "float16", 8),
    (case("own, ragged", 64, 64, lq=150, lk=200, batch=2, heads=2, full_rows=True, empty_rows=True,
          density=0.4, q_ragged=True, kv_ragged=True), "bfloat16", 2),
    (case("own, wide head", 64, 128, lq=192, lk=256, head_dim=128, scale=-0.1), "float16", 1),
    (case("three consumers", 192, 64, lq=384, lk=190, heads=2, mask_heads=2, kv_ragged=True,
          magnitude=4.0), "bfloat16", 1),
    (case("text rows", 384, 384, lq=300, lk=384, density=1.0, kv_ragged=True), "bfloat16", 2),
]  # fmt: skip
# Every kind of row, for one to three consumers of one list and for two of their own.
EVERY_ROW = [
    (EveryRow.of("one consumer", 64, 64, 64), "float16", mosaic_gpu.Config(64, 2, consumers=1)),
    (EveryRow.of("two of their own, wide head", 64, 64, 128), "bfloat16", None),
    (EveryRow.of("two", 128, 64, 64), "float16", None),
    (EveryRow.of("three, wide head", 192, 64, 128), "bfloat16", None),
]


@functools.partial(jax.jit, static_argnames=("scale", "num_sms", "config"))
def attend(q, k, v, mask, *, scale, num_sms, config):
    return mosaic_gpu.attention(q, k, v, mask, scale=scale, num_sms=num_sms, config=config)


@pytest.mark.parametrize(("case", "dtype", "num_sms"), CASES, ids=[c[0].name for c in CASES])
def test_matches_float64_without_races_whatever_padding_holds(case, dtype, num_sms):
    check(case, dtype, num_sms)


@pytest.mark.parametrize(("case", "dtype", "config"), EVERY_ROW, ids=[c[0].name for c in EVERY_ROW])
def test_every_kind_of_row_with_any_number_of_consumers(case, dtype, config):
    check(case, dtype, 1, config)


def check(case, dtype, num_sms, config=None):
    """Results against float64, in the budget of the dtype, with NaN wherever nothing is real."""
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
        attend, q, k, v, mask, scale=scale, num_sms=num_sms, config=config, detect_races=True
    )
    assert not races_found
    assert out.dtype == dtype
    assert lse.dtype == jnp.float32
    q, k, v, *_ = case.arrays(dtype)
    keep = tolerances.token_keep(mask, case.lq, case.lk)
    assert keep.any(), "a mask that keeps nothing checks nothing"
    exact = tolerances.exact_attention(q, k, v, keep, scale, d_out, d_lse)
    plain = tolerances.plain_attention(q, k, v, keep, scale, d_out, d_lse)
    tolerances.assert_within_budget(out, exact[0], plain[0], dtype, f"{case.name}: out")
    tolerances.assert_within_budget(lse, exact[1], plain[1], jnp.float32, f"{case.name}: lse")
    empty = np.broadcast_to(~keep.any(-1), lse.shape).swapaxes(1, 2)
    assert (np.asarray(out)[empty] == 0).all()


def test_cases_are_as_ragged_as_they_say():
    for case, *_ in CASES + EVERY_ROW:
        mask = case.mask()
        for ragged, lengths, length, block in (
            (case.q_ragged, mask.q_lengths, case.lq, case.block_q),
            (case.kv_ragged, mask.kv_lengths, case.lk, case.block_kv),
        ):
            held = np.minimum(length - block * np.arange(-(-length // block)), block)
            assert ragged == (lengths is not None), case.name
            assert not ragged or ((0 < lengths) & (lengths < held)).any(), case.name


@pytest.mark.parametrize("third", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_every_barrier_is_needed(third):
    """Left out, each wait or arrival is noticed, though not always by what it would do on a GPU.

    Without an arrival the kernel hangs. Without most waits the interpreter stops at its own rule
    that every completion of a barrier be observed, which says nothing of races: so for all waits but
    that for stores, which is a race.
    """
    sound = [(structure, mosaic.NOTHING) for structure in mosaic_mutants.CONFIGS]
    ends = mosaic.verdicts(mosaic_mutants.__name__, [*sound, *mosaic_mutants.MUTANTS[third::3]])
    assert [ends.pop(mutant) for mutant in sound] == ["clean"] * len(sound)
    unnoticed = [mutant for mutant, end in ends.items() if end == "clean"]
    assert not unnoticed
