"""What the kernel computes, in JAX's interpreter: against float64, with its race detector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _interpret, block_mass
from tests import mosaic
from tests.conformance.op_suite import Case
from tests.pallas_kernels.block_mass import mosaic_mutants

pytestmark = mosaic.needs_interpreter

# Names say which query blocks a consumer's rows make, and which key blocks a tile.
CASES = (
    Case("halves_and_quarters", lq=200, lk=100, block_q=32, block_kv=32, head_dim=64),
    Case("one_and_two_ragged", lq=70, lk=250, block_q=64, block_kv=64, head_dim=64, q_ragged=True,
         kv_ragged=True, mask_heads=1, batch=2, mask_batch=2),
    Case("one_and_two_whole", lq=256, lk=192, heads=1, block_q=64, block_kv=64, head_dim=64),
    Case("two_and_one", lq=256, lk=128, heads=1, block_q=128, block_kv=128, head_dim=128),
    Case("three_and_three_quarters", lq=300, lk=192, heads=1, block_q=192, block_kv=96, head_dim=64,
         kv_ragged=True, mask_heads=1),
    Case("twelve_and_five_halves", lq=400, lk=330, heads=1, block_q=768, block_kv=320, head_dim=64,
         kv_ragged=True, mask_heads=1),
    Case("six_and_three", lq=384, lk=384, heads=1, block_q=384, block_kv=384, head_dim=64),
)  # fmt: skip


def exact_mass(q, k, lse, case, mask):
    """Float64 [B, H, Nq, Nk]; padding never enters."""
    q, k = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k))
    nq, nk = mask.num_q_blocks * case.block_q, mask.num_kv_blocks * case.block_kv
    real_q, real_k = np.isfinite(lse), np.ones((1, 1, case.lk), bool)
    if mask.q_lengths is not None:
        real_q = real_q & np.asarray(mask.real_queries(case.lq))
    if mask.kv_lengths is not None:
        real_k = np.asarray(mask.real_keys(case.lk))
    keep = real_q[..., :, None] & real_k[..., None, :]
    logits = np.where(keep, 0.5 * q @ k.swapaxes(-1, -2) - np.where(real_q, lse, 0)[..., None], 0)
    mass = np.where(keep, np.exp(logits), 0)
    mass = np.pad(mass, ((0, 0), (0, 0), (0, nq - case.lq), (0, nk - case.lk)))
    b, h = mass.shape[:2]
    return mass.reshape(b, h, -1, case.block_q, nk // case.block_kv, case.block_kv).sum((3, 5))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_matches_float64_without_races(case):
    dtype = jnp.float16 if case.head_dim == 128 else jnp.bfloat16
    mask, (q, k, _, _, lse) = case.mask(), case.arrays(dtype)
    lse = np.array(lse) + 4
    lse[0, 0, 3] = -np.inf
    expected = exact_mass(q, k, lse, case, mask)
    nan = jnp.full((), np.nan, dtype)
    if mask.q_lengths is not None:
        real = np.asarray(mask.real_queries(case.lq))
        q, lse = jnp.where(real.swapaxes(1, 2)[..., None], q, nan), np.where(real, lse, np.nan)
    if mask.kv_lengths is not None:
        k = jnp.where(np.asarray(mask.real_keys(case.lk)).swapaxes(1, 2)[..., None], k, nan)
    call = functools.partial(
        block_mass, block_q=case.block_q, block_kv=case.block_kv, scale=0.5,
        q_lengths=mask.q_lengths, kv_lengths=mask.kv_lengths, implementation="mosaic_gpu",
    )  # fmt: skip
    outcome = _interpret.run(jax.jit(call), q, k, jnp.asarray(lse), detect_races=True)
    assert not outcome.races_found
    assert outcome.results.dtype == jnp.float32
    np.testing.assert_allclose(outcome.results, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_wait_and_arrival_is_needed(half):
    """Left out, each wait or arrival is noticed, though not always by what it would do on a GPU.

    Without an arrival the kernel hangs. Without most waits the interpreter stops at its own rule
    that every completion of a barrier be observed, which says nothing of races: so for all
    waits here. The wait for stores is not tried: the race detector sees none where one thread sends
    and writes again.
    """
    sound = (mosaic.NOTHING,)
    mutants = [(name,) for name in mosaic_mutants.MUTANTS[half::2]]
    ends = mosaic.verdicts(mosaic_mutants.__name__, [sound, *mutants])
    assert ends.pop(sound) == "clean"
    unnoticed = [mutant for mutant, end in ends.items() if end == "clean"]
    assert not unnoticed
