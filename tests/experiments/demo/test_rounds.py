import itertools

import numpy as np
import pytest

from experiments.demo.rounds import (
    READING,
    ROUNDS,
    Spread,
    beside,
    in_rounds,
    spread_of,
    verdict,
    word_for,
)
from experiments.demo.step_times import dense_spreads, spreads_of
from sparsevdit_jax import SparseAttention, StepSchedule
from sparsevdit_jax.patterns import AdaSpa, Dense


class Machine:
    """Programs with true times, on a machine whose other work slows them by a factor that moves."""

    def __init__(self, true, load):
        self.true, self.load, self.ran = true, iter(load), []

    def timers(self):
        return {key: lambda key=key: self.run(key) for key in self.true}

    def run(self, key):
        self.ran.append(key)
        return self.true[key] * next(self.load)


TRUE = {"dense": 1000.0, "sta": 500.0, "adaspa": 600.0, "mixture": 620.0}


def ratios(load, true=TRUE):
    machine = Machine(true, load)
    pairs = in_rounds(machine.timers())
    found = {k: Spread.of([dense / own for own, dense in rows]) for k, rows in pairs.items()}
    return found, machine.ran


def test_every_method_runs_in_every_round_right_beside_dense():
    for count in range(1, 7):
        keys = [f"m{i}" for i in range(count)]
        machine = Machine(dict.fromkeys(["dense", *keys], 1.0), itertools.repeat(1.0))
        seen = []
        pairs = in_rounds(machine.timers(), rounds=3, advance=seen.append)
        assert list(pairs) == keys
        assert all(len(rows) == 3 for rows in pairs.values())
        assert seen == machine.ran
        third = len(machine.ran) // 3
        assert machine.ran == 3 * machine.ran[:third]  # rounds, not one method after the other
        for i, key in enumerate(machine.ran):
            near = machine.ran[max(0, i - 1) : i + 2]
            assert key == "dense" or "dense" in near


def test_dense_serves_two_methods():
    assert list(beside("abcde")) == [("a", "dense", "b"), ("c", "dense", "d"), ("e", "dense")]


def test_a_quiet_machine_gives_numbers():
    noise = np.random.default_rng(0).normal(1, 0.01, 100)
    found, _ = ratios(noise)
    assert found["sta"].median == pytest.approx(2, rel=0.03)
    assert found["adaspa"].median == pytest.approx(1000 / 600, rel=0.03)
    assert verdict(found["sta"]) == verdict(found["adaspa"]) == "number"
    assert found["sta"].low < found["sta"].median < found["sta"].high


def test_what_is_as_fast_as_dense_is_seldom_called_faster_or_slower():
    noise = np.random.default_rng(1).normal(1, 0.05, (400, 2 * ROUNDS))
    said = [verdict(ratios(row, {"dense": 1.0, "same": 1.0})[0]["same"]) for row in noise]
    assert np.mean([word != "unclear" for word in said]) < 0.05


def test_load_that_grows_slowly_moves_no_ratio():
    """A demo that timed one method after the other said that AdaSpa, 1.7 times faster, takes 1.3 times as long."""
    found, ran = ratios(np.linspace(1, 2.5, 5 * ROUNDS))
    assert len(ran) == 5 * ROUNDS
    assert verdict(found["adaspa"]) == "number"
    assert found["adaspa"].median == pytest.approx(1000 / 600, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_bursts_of_other_work_give_words(seed):
    """Some turns take five times as long; the words that remain are true."""
    load = np.where(np.random.default_rng(seed).random(100) < 0.4, 5.0, 1.0)
    found, _ = ratios(load)
    assert {verdict(found[key]) for key in ("sta", "adaspa")} <= {"faster", "unclear"}


@pytest.mark.parametrize(
    ("median", "low", "high", "said"),
    [
        (1.7, 1.6, 1.8, "number"),
        (0.6, 0.55, 0.65, "number"),
        (1.7, 1.2, 2.1, "faster"),
        (0.5, 0.3, 0.9, "slower"),
        (1.02, 0.98, 1.05, "unclear"),
        (1.0, 1.0, 1.0, "unclear"),
        (1.7, 0.9, 2.1, "unclear"),
        (1.09, 1.03, 1.12, "unclear"),
        (1.12, 1.06, 1.2, "number"),
        (0.92, 0.9, 0.96, "unclear"),
    ],
)
def test_the_rule(median, low, high, said):
    spread = Spread(median, low, high)
    assert verdict(spread) == said
    assert word_for(spread, speedup=True) == (None if said == "number" else said)
    assert said == "number" or said in READING


def test_a_time_is_quoted_where_it_is_steady():
    assert word_for(Spread(100, 95, 110), speedup=False) is None
    assert word_for(Spread(100, 95, 160), speedup=False) == "unsteady"


def test_the_range_of_the_rounds_holds_the_median_as_often_as_the_module_says():
    rng = np.random.default_rng(0)
    draws = rng.lognormal(0, 1, (4000, ROUNDS))  # of any shape; its true median is 1
    held = (draws.min(1) <= 1) & (draws.max(1) >= 1)
    assert held.mean() == pytest.approx(1 - 2 ** (1 - ROUNDS), abs=0.015)


@pytest.mark.parametrize(
    "value",
    [None, 1.5, {}, {"median": 1.0}, {"median": None, "low": 1, "high": 1},
     {"median": float("nan"), "low": 1, "high": 1}, {"median": 1, "low": 0, "high": 2}],
)  # fmt: skip
def test_what_is_no_spread_is_none(value):
    assert spread_of({"step_ms": value}, "step_ms") is None


ATTENTION = SparseAttention((Dense(),) * 2, StepSchedule(10, 2))
SEARCHING = SparseAttention((AdaSpa(density=0.2),) * 2, StepSchedule.adaspa(10, (2, 6)))


def test_attention_is_what_is_left_of_a_step():
    """Dense: 700 of 1,000 ms are attention; a step of 500 ms leaves 200 beside the rest's 300."""
    found = spreads_of([(500.0, 1000.0)] * 3, [0.7, 0.7], ATTENTION, None)
    assert found["attention_ms"].median == pytest.approx(200)
    assert found["speedup_attention"].median == pytest.approx(3.5)
    assert found["speedup_step"] == Spread(2, 2, 2)
    assert found["run_s"].median == pytest.approx(2 * 1.0 + 8 * 0.5)
    assert found["speedup_run"].median == pytest.approx(10 / 6)


def test_searches_count_in_the_run_and_not_in_the_step():
    found = spreads_of([(500.0, 1000.0)] * 3, [0.7], SEARCHING, 800.0)
    assert found["speedup_step"].median == 2
    assert found["run_s"].median == pytest.approx(2 * 1.0 + 8 * 0.5 + 2 * 0.3)


def test_noise_that_leaves_no_attention_is_finite_and_gives_no_number():
    found = spreads_of([(250.0, 1000.0), (500.0, 1000.0)], [0.7], ATTENTION, None)
    assert np.isfinite(found["speedup_attention"].high)
    assert verdict(found["speedup_attention"]) == "faster"


def test_dense_has_times_and_no_speedups():
    found = dense_spreads(Spread(1000.0, 990.0, 1010.0), [0.7, 0.72], 10)
    assert found["attention_ms"].median == pytest.approx(710)
    assert found["run_s"].median == pytest.approx(10)
    assert found.keys() == {"step_ms", "attention_ms", "run_s"}
