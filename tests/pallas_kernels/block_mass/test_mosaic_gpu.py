import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _hopper, _interpret, block_mass
from pallas_kernels.block_mass import mosaic_gpu
from tests import mosaic

# The last config of each; tests/experiments/kernel_resources compiles all of them.
STRUCTURES = {(c.parts, c.pieces): (d, c) for d, c in mosaic_gpu.shipped_configs()}


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
@pytest.mark.parametrize("head_dim_and_config", STRUCTURES.values(), ids=str)
def test_lowers_for_cuda(head_dim_and_config):
    head_dim, config = head_dim_and_config
    arrays = [
        jax.ShapeDtypeStruct((1, length, 2, head_dim), jnp.bfloat16)
        for length in (config.rows, 4 * config.tile_kv)
    ]
    shift = jax.ShapeDtypeStruct((1, 2, config.rows), jnp.float32)
    pieces = jax.ShapeDtypeStruct((1, 2, 4 * config.tile_kv // config.block_kv), jnp.int32)
    call = functools.partial(mosaic_gpu.launch, config, 0.1)
    assert "mosaic_gpu" in mosaic.lower_for_cuda(call, *arrays, shift, pieces)


@pytest.mark.parametrize(
    ("blocks", "inner"),
    [((384, 384), (64, 128)), ((192, 192), (64, 64)), ((64, 96), (64, 32)), ((32, 320), (32, 64))],
)
def test_blocks_are_walked_in_their_largest_divisors(blocks, inner):
    config = mosaic_gpu.heuristics(128, *blocks)
    assert (config.block_q, config.block_kv) == inner


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
