import numpy as np
import pytest

from sparsevdit_jax import StepSchedule
from sparsevdit_jax.search.measurements import Measurements
from sparsevdit_jax.search.probe import ProbeState


def filled():
    measurements = Measurements.empty(prompts=2, steps=3, layers=2, candidates=4, heads=5)
    error = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    choice = np.tile(np.arange(5), (2, 1))
    state = ProbeState(error.swapaxes(1, 2), np.ones((2, 5), np.float32), choice, ())
    measurements.add(1, 2, (state, state))
    return measurements, error


def test_rows_are_averaged_and_what_is_absent_is_known():
    measurements, error = filled()
    np.testing.assert_array_equal(measurements.error[1, 2, 0], error.mean(0))
    np.testing.assert_array_equal(measurements.choice[1, 2, 1], np.arange(5))
    assert measurements.has(1, 2)
    assert not measurements.has(0, 2)
    with pytest.raises(ValueError, match="must be a Probe"):
        measurements.add(0, 0, ((), ()))


def test_steps_that_count():
    measurements, _ = filled()
    schedule = StepSchedule.adaspa(6, (3, 5))  # dense, dense, search, reuse, search, reuse
    np.testing.assert_array_equal(measurements.sparse_steps(schedule), [2, 3, 4, 5])
    np.testing.assert_array_equal(measurements.sparse_steps(schedule, online=True), [3, 4, 5])


def test_saved_and_loaded_with_the_same_settings_only(tmp_path):
    measurements, _ = filled()
    path = tmp_path / "run.npz"
    measurements.save(path, dict(steps=3, prompts=["a", "b"]))
    loaded = Measurements.load(path, dict(prompts=["a", "b"], steps=3))
    for name in ("error", "power", "choice"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(measurements, name))
    with pytest.raises(ValueError, match="steps: 3 there, 4 here"):
        Measurements.load(path, dict(prompts=["a", "b"], steps=4))
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("damage", [lambda b: b"junk", lambda b: b"", lambda b: b[: len(b) // 2]])
def test_a_damaged_file_is_named_and_kept(damage, tmp_path):
    path = tmp_path / "m.npz"
    Measurements.empty(prompts=1, steps=2, layers=1, candidates=2, heads=3).save(path, {})
    path.write_bytes(damaged := damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"m\.npz is damaged .*move it away"):
        Measurements.load(path, {})
    assert path.read_bytes() == damaged
    np.savez(path, other=np.zeros(2))
    with pytest.raises(ValueError, match=r"m\.npz is damaged or holds no measurements"):
        Measurements.load(path, {})


def test_long_settings_are_shown_where_they_differ(tmp_path):
    path = tmp_path / "m.npz"
    found = Measurements.empty(prompts=1, steps=1, layers=1, candidates=1, heads=1)
    found.save(path, dict(candidates=[*range(500), "left", *range(500)]))
    with pytest.raises(ValueError, match=r"\.\.\..*'left'.*\.\.\. there, \.\.\..*'right'.*here"):
        Measurements.load(path, dict(candidates=[*range(500), "right", *range(500)]))
