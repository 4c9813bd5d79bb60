import dataclasses

import pytest

from sparsevdit_jax import StepSchedule, VideoGrid
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.patterns import Diagonal, Skip
from sparsevdit_jax.presets import METHODS, attention_for

SIZES = dict(num_layers=3, num_heads=2, num_steps=10)


def test_a_method_has_settings_of_a_model():
    method = Method(
        name="x",
        title="X",
        source="nowhere",
        pattern=lambda grid, heads, layer: Diagonal(),
        models={"wan": dict(schedule=warm_up(0.2), dense_layers=lambda n: (n - 1,))},
    )
    assert method.of(None) == method.of("cogvideox") == method
    assert method.schedule(50) == StepSchedule(50)
    assert method.of("wan").schedule(50) == StepSchedule(50, 10)
    assert method.of("wan").dense_layers(30) == (29,)


def test_a_module_of_patterns_brings_its_methods(monkeypatch):
    """Layers, dense layers and steps of a method reach the attention, and flags come on top."""
    layered = Method(
        name="layered",
        title="Layered",
        source="nowhere",
        pattern=lambda grid, heads, layer: Diagonal(0.1 * (layer + 1)),
        schedule=warm_up(0.3),
        dense_layers=lambda n: (0,),
    )
    monkeypatch.setitem(METHODS, "layered", layered)
    attention = attention_for("layered", VideoGrid(2, 4, 4), **SIZES)
    assert [p.is_dense for p in attention.patterns] == [True, False, False]
    assert [p.density for p in attention.patterns[1:]] == pytest.approx([0.2, 0.3])
    assert attention.schedule == StepSchedule(10, 3)
    more = attention_for("layered", VideoGrid(2, 4, 4), **SIZES, dense_steps=1, dense_layers=(2,))
    assert [p.is_dense for p in more.patterns] == [True, False, True]
    assert more.schedule == StepSchedule(10, 1)


def test_methods_of_modules_are_found(monkeypatch):
    from sparsevdit_jax import presets
    from sparsevdit_jax.patterns import skip

    own = dataclasses.replace(METHODS["sta"], name="skipped", pattern=lambda g, h, layer: Skip())
    monkeypatch.setattr(skip, "METHODS", (own,), raising=False)
    assert presets._collect()["skipped"] is own
    monkeypatch.setattr(skip, "METHODS", (METHODS["sta"],))
    with pytest.raises(ValueError, match="must have distinct names"):
        presets._collect()


def test_names_are_those_of_flags():
    assert all(name == name.lower() and " " not in name for name in METHODS)
