"""Settings of every method in the sweep, and what is counted of those whose density q and k decide."""

import jax
import numpy as np
import pytest

from experiments.quality import sweep
from experiments.quality.counted import Counted, counted
from experiments.quality.settings import (
    KNOBS,
    check_distinct,
    of_methods,
    published,
)
from sparsevdit_jax import (
    Phase,
    SparseAttention,
    StepContext,
    StepSchedule,
    VideoGrid,
    attend,
    metrics,
    ops,
)
from sparsevdit_jax.patterns import Dense, Diagonal, LongCatBSA, Rettention
from sparsevdit_jax.presets import METHODS


def test_every_method_has_settings_with_the_same_dense_steps():
    found = of_methods(2, 4, VideoGrid(16, 16, 16, text_len=2), 15)
    check_distinct([*published(2, 15), *found])
    families = {s.family for s in found}
    left = {m.title for m in METHODS.values()} - families
    assert left == {"STA", "AdaSpa", "Sparse-vDiT", "VSA", "VSA-H3", "SLA"}
    assert {f for f in families if f.endswith("compensated")} == {
        "STA compensated",
        "AdaSpa compensated",
        "Sparse-vDiT diagonal compensated",
    }
    assert KNOBS.keys() <= METHODS.keys()
    for setting in found:
        phases = setting.attention.schedule.phases()
        assert setting.attention.num_layers == 2
        assert sum(p in (Phase.DENSE, Phase.FIRST_SEARCH) for p in phases[:3]) == 3, setting.key


def test_a_method_whose_density_depends_on_q_and_k_is_counted():
    grid = VideoGrid(4, 8, 8)
    pattern = LongCatBSA(None, 0.5, (2, 2, 2))
    attention = SparseAttention((pattern, Diagonal(0.3, 8), Dense()), StepSchedule(5, 3))
    watched, *others = counted(attention).patterns
    assert isinstance(watched, Counted)
    assert others == [Diagonal(0.3, 8), Dense()]
    qkv = jax.random.normal(jax.random.key(0), (3, 2, grid.num_tokens, 2, 8))
    ctx = StepContext(grid)
    state = watched.init(grid, batch=2, num_heads=2, head_dim=8)
    done = jax.jit(lambda qkv, state, ctx: attend(watched, *qkv, state, ctx))(qkv, state, ctx)
    plan, _ = pattern.plan(*qkv[:2], (), ctx)
    want = ops.density(plan.mask, plan.q_order, plan.kv_order, ctx)
    found = metrics.density(watched, grid, num_heads=2, state=done.state)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert 0 < found.min() < found.max() < 1
    alone = jax.jit(lambda qkv, ctx: attend(pattern, *qkv, (), ctx).out)(qkv, ctx)
    np.testing.assert_allclose(done.out, alone, rtol=1e-5, atol=1e-6)
    dense = jax.jit(lambda qkv, state: attend(watched, *qkv, state, StepContext(grid, Phase.DENSE)))
    np.testing.assert_array_equal(dense(qkv, state).state[1], 1)


def test_steps_that_search_in_full_count_as_full():
    schedule = StepSchedule(4, 1, (1, 3))
    attention = SparseAttention.uniform(Rettention(0.2, block=4), 2, schedule)
    grid = VideoGrid(4, 6, 6)
    states = attention.init(grid, batch=1, num_heads=2, head_dim=8)
    found = [sweep.step_density(attention, grid, step, states, num_heads=2) for step in range(4)]
    window = Rettention(0.2, block=4).density_on(grid, 1)[0]
    assert found == pytest.approx([1, 1, window, 1])
    assert window < 0.3
