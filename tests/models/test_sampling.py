import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.sampling import denoise_step, generate, guide, sampling_times
from models.transformer import TransformerOutput
from sparsevdit_jax import Phase, SparseAttention, StepSchedule
from sparsevdit_jax.patterns import AdaSpa
from tests.models.test_tiny import SMALL, make_model


def test_times_run_from_one_to_zero_and_shift_towards_noise():
    plain, shifted = sampling_times(10, 1.0), sampling_times(10, 3.0)
    np.testing.assert_allclose(plain, np.linspace(1, 0, 11), atol=1e-7)
    assert (shifted[0], shifted[-1]) == (1, 0)
    assert (shifted[1:-1] > plain[1:-1]).all()


def test_guidance_extrapolates():
    assert guide(3.0, 1.0, 2.0) == 5.0
    assert guide(3.0, 1.0, 1.0) == 3.0
    assert guide(3.0, 1.0, 0.0) == 1.0


def constant_model(answer):
    """A model that always predicts `answer`: Euler must arrive there whatever the noise."""

    def model(x, t, label, **kwargs):
        del t, kwargs
        scale = 1 + label.reshape(-1, 1, 1, 1, 1).astype(x.dtype)
        return TransformerOutput(jnp.broadcast_to(answer, x.shape) * scale, ())

    return model


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_arrives_at_the_predicted_video(key, shift):
    x = jax.random.normal(key, (2, 1, 2, 2, 1))
    answer, times = jnp.full((1, 1, 2, 2, 1), 0.7), sampling_times(8, shift)
    for t, t_next in itertools.pairwise(times):
        step = denoise_step.__wrapped__
        x, _ = step(constant_model(answer), x, jnp.zeros(2, int), t, t_next, (), None)
    np.testing.assert_allclose(x, jnp.broadcast_to(answer, x.shape), atol=1e-5)


def test_guidance_uses_the_second_half_as_unconditional(key):
    x = jax.random.normal(key, (1, 1, 2, 2, 1))
    label = jnp.array([1, 0])  # conditional answer 2 * 0.7, unconditional 0.7
    answer = jnp.full((1, 1, 2, 2, 1), 0.7)
    out, _ = denoise_step.__wrapped__(
        constant_model(answer), x, label, np.float32(1), np.float32(0), (), None, guidance=3.0
    )
    np.testing.assert_allclose(out, 0.7 + 3 * 0.7 * jnp.ones_like(x), rtol=1e-5)


def test_a_guided_sparse_run_compiles_four_programs_and_starts_anywhere():
    model = make_model()
    schedule = StepSchedule.adaspa(8, (3, 6))
    attention = SparseAttention((AdaSpa(block=8),) * SMALL.num_layers, schedule)
    noise = jax.random.normal(jax.random.key(5), (1, 4, 8, 8, 1))
    seen, before = [], denoise_step._cache_size()
    options = dict(num_steps=8, attention=attention, guidance=2.0, unconditional=10)
    out = generate(
        model, noise, [3], on_step=lambda *a: seen.append((*a[:2], jnp.array(a[2]))), **options
    )
    assert denoise_step._cache_size() - before == 4
    assert [phase for _, phase, _ in seen] == list(schedule.phases())
    assert out.shape == noise.shape
    assert bool(jnp.isfinite(out).all())
    assert seen[1][1] is Phase.DENSE
    np.testing.assert_array_equal(out, generate(model, noise, [3], **options))  # same bits
    np.testing.assert_array_equal(out, generate(model, seen[1][2], [3], start=2, **options))


def test_bad_calls_are_refused():
    model, noise = SimpleNamespace(), jnp.zeros((2, 1, 2, 2, 1))
    with pytest.raises(ValueError, match=r"label.shape=\(1,\) must be one class per video"):
        generate(model, noise, [1], num_steps=4)
    with pytest.raises(ValueError, match=r"guidance=2\.0 needs `unconditional`"):
        generate(model, noise, [1, 2], num_steps=4, guidance=2.0)
    with pytest.raises(ValueError, match=r"start=9 must lie in 0\.\.4"):
        generate(model, noise, [1, 2], num_steps=4, start=9)
    attention = SparseAttention((AdaSpa(block=8),), StepSchedule(num_steps=5))
    with pytest.raises(ValueError, match="num_steps=4 but the schedule of `attention` is for 5"):
        generate(model, noise, [1, 2], num_steps=4, attention=attention)
