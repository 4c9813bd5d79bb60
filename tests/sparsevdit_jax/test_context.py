import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid
from sparsevdit_jax.parallel.ulysses import LocalHeads

GRID = VideoGrid(2, 2, 2, 4)


def test_context_is_a_pytree_that_recompiles_for_static_fields_only():
    @jax.jit
    def total(ctx):
        return ctx.step + ctx.text_lengths.sum()

    for step in range(3):
        ctx = StepContext(GRID, Phase.REUSE, step, np.array([1, 2]))
        assert total(ctx) == step + 3
    assert total._cache_size() == 1
    total(StepContext(GRID, Phase.SEARCH, 0, np.array([1, 2])))
    assert total._cache_size() == 2


def test_context_keeps_concrete_lengths_on_the_host():
    assert isinstance(StepContext(GRID, text_lengths=[1, 2]).text_lengths, np.ndarray)


@pytest.mark.parametrize(
    ("lengths", "match"),
    [
        ([1, 5], r"text_lengths=\[1, 5\] must lie in 0\.\.4, the room for text of VideoGrid"),
        ([-1], r"text_lengths=\[-1\] must lie in 0\.\.4"),
        (3, r"text_lengths has shape \(\)"),
        ([1.0], r"dtype float64; it must be integers \[batch\]"),
    ],
)
def test_bad_text_lengths(lengths, match):
    with pytest.raises(ValueError, match=match):
        StepContext(GRID, text_lengths=lengths)


@pytest.mark.parametrize("step", [1.5, -1, True, None, jnp.float32(1), jnp.arange(2)])
def test_bad_steps(step):
    with pytest.raises(ValueError, match=r"step(=| is ).* must be (a|one) whole number"):
        StepContext(GRID, step=step)


def test_bad_phase():
    with pytest.raises(ValueError, match="phase='dense' must be a Phase"):
        StepContext(GRID, "dense")


def test_kernel_options_are_static_and_a_density_is_not():
    @jax.jit
    def total(ctx):
        return jnp.float32(0) if ctx.density is None else ctx.density

    for density in (0.25, 0.5):
        assert total(StepContext(GRID, density=np.float32(density), room=0.5)) == density
    assert total._cache_size() == 1
    total(StepContext(GRID, density=0.5, room=0.5, kernel=KernelOptions("xla")))
    assert total._cache_size() == 2
    assert StepContext(GRID, density=0.5).room == 0.5
    with pytest.raises(ValueError, match=r"density=1.5 must lie in \(0, 1\]; kept blocks"):
        StepContext(GRID, density=1.5)


def test_heads_that_are_here():
    q, x = jnp.zeros((1, 16, 2, 4)), np.arange(5)[None]
    alone = StepContext(GRID)
    assert alone.num_heads(q) == 2
    assert alone.local_heads(x) is x
    assert alone.all_heads(x) is x
    here = StepContext(GRID, heads=LocalHeads(jnp.array([3, 5], np.int32), 5))
    assert here.num_heads(q) == 5
    np.testing.assert_array_equal(here.local_heads(x), [[3, 0]])  # 5 is no head
    np.testing.assert_array_equal(here.local_heads(x.T, axis=0), [[3], [0]])
    assert here.local_heads(x[:, :1]) is not None
    np.testing.assert_array_equal(here.local_heads(x[:, :1]), [[0]])  # one for all
