import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _hopper, _interpret, block_mass
from pallas_kernels.block_mass import mosaic_gpu
from tests import mosaic
from tests.conformance.op_suite import Case
from tests.pallas_kernels.block_mass import mosaic_mutants

# Names say the kernel's way: rows of whose blocks, keys in pieces of a tile or tiles of a block.
CASES = (
    Case("pairs_of_32", lq=200, lk=100, block_q=32, block_kv=32, head_dim=64),
    Case("own_64", lq=70, lk=250, block_q=64, block_kv=64, head_dim=64, q_ragged=True,
         kv_ragged=True, mask_heads=1, batch=2, mask_batch=2),
    Case("own_128", lq=256, lk=128, heads=1, block_q=128, block_kv=128, head_dim=128),
    Case("own_192", lq=300, lk=192, heads=1, block_q=192, block_kv=96, head_dim=64,
         kv_ragged=True, mask_heads=1),
    Case("shared_256", lq=256, lk=500, heads=1, block_q=256, block_kv=256, head_dim=64,
         q_ragged=True, mask_heads=1),
    Case("shared_384_in_parts", lq=400, lk=330, heads=1, block_q=768, block_kv=320, head_dim=64,
         kv_ragged=True, mask_heads=1),
    Case("own_192_whole", lq=384, lk=256, heads=1, block_q=192, block_kv=128, head_dim=64),
    Case("shared_384_whole", lq=384, lk=384, heads=1, block_q=384, block_kv=384, head_dim=64),
)  # fmt: skip
# The last config of each; tests/experiments/kernel_resources compiles all of them.
STRUCTURES = {(c.groups, c.fold, c.shared): (d, c) for d, c in mosaic_gpu.shipped_configs()}


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


@mosaic.needs_interpreter
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


def test_three_tiles_are_interpreted_with_and_without_a_mask():
    """They take turns in another way where keys are masked; whole arrays have no mask."""
    found = set()
    for case in CASES:
        c = mosaic_gpu.heuristics(case.head_dim, case.block_q, case.block_kv)
        if c.groups * c.fold == 3:
            found.add((c.shared, case.kv_ragged or case.lk % c.step > 0))
    assert found == set(itertools.product((False, True), repeat=2))


@mosaic.needs_interpreter
def test_vmap_becomes_batch():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((2, 1, 64, 1, 64)), jnp.bfloat16) for _ in range(2))
    lengths = jnp.array([[[[40]]], [[[64]]]])

    def one(q, k, lengths):
        blocks = {"block_q": 64, "block_kv": 64, "q_lengths": None, "kv_lengths": lengths}
        return mosaic_gpu.block_mass(q, k, jnp.full((1, 1, 64), 4.0), scale=0.2, **blocks)

    got, _ = _interpret.run(jax.jit(jax.vmap(one)), q, k, lengths)
    one = jax.jit(one)
    expected = [_interpret.run(one, *x)[0] for x in zip(q, k, lengths, strict=True)]
    np.testing.assert_array_equal(got, jnp.stack(expected))


@mosaic.needs_interpreter
@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_wait_and_arrival_is_needed(half):
    """Left out, each wait or arrival is noticed, though not always by what it would do on a GPU.

    Without an arrival the kernel hangs. Without most waits the interpreter stops at its own rule
    that every completion of a barrier be observed, which says nothing of races: so for "q_full",
    "k_full" and "k_free". Without the wait for the other consumer's sums there is a race. The wait
    for stores is not tried: the race detector sees none where one thread sends and writes again.
    """
    sound = ("nothing",)
    mutants = [(name,) for name in mosaic_mutants.MUTANTS[half::2]]
    ends = mosaic.verdicts(mosaic_mutants.__name__, [sound, *mutants])
    assert ends.pop(sound) == "clean"
    unnoticed = [mutant for mutant, end in ends.items() if end == "clean"]
    assert not unnoticed


@mosaic.needs_interpreter
@pytest.mark.parametrize("head_dim_and_config", STRUCTURES.values(), ids=str)
def test_lowers_for_cuda(head_dim_and_config):
    head_dim, config = head_dim_and_config
    arrays = [
        jax.ShapeDtypeStruct((1, length, 2, head_dim), jnp.bfloat16)
        for length in (config.rows, 4 * config.step)
    ]
    shift = jax.ShapeDtypeStruct((1, 2, config.rows), jnp.float32)
    pieces = jax.ShapeDtypeStruct((1, 2, 4 * config.step // config.piece), jnp.int32)
    call = functools.partial(mosaic_gpu.launch, config, 0.1)
    assert "mosaic_gpu" in mosaic.lower_for_cuda(call, *arrays, shift, pieces)


def test_shipped_configs_fit_in_shared_memory():
    for head_dim, config in mosaic_gpu.shipped_configs():
        assert config.smem_bytes(head_dim) <= _hopper.SMEM_BYTES


def test_refuses_a_cpu_and_odd_blocks():
    q = jnp.zeros((1, 64, 1, 64), jnp.bfloat16)
    lse = jnp.zeros((1, 1, 64))
    with pytest.raises(NotImplementedError, match="mosaic_gpu needs"):
        block_mass(q, q, lse, block_q=64, block_kv=64, implementation="mosaic_gpu")
    with pytest.raises(NotImplementedError, match="multiples of 32 tokens, not block_kv=48"):
        mosaic_gpu.heuristics(64, 32, 48)
    assert block_mass(q, q, lse, block_q=64, block_kv=64).shape == (1, 1, 1, 1)
