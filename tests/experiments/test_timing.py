import time

import jax.numpy as jnp
import pytest

from experiments.timing import Timing, _medians, race, timer


def sleeper(seconds):
    def run(calls):
        time.sleep(seconds * calls)
        return seconds * calls

    return run


def test_a_race_gives_medians_and_fills_the_window():
    results = race({"fast": sleeper(0.001), "slow": sleeper(0.004)}, rounds=3, window_s=0.008)
    assert results["fast"] == Timing(1.0, 1.0, 1.0, 8, 3)
    assert results["slow"].calls == 2
    assert results["slow"].latency_ms == pytest.approx(4.0)


def test_one_that_fails_does_not_stop_the_others():
    def broken(calls):
        raise NotImplementedError("not on this machine")

    later = iter([0.01, 0.01, 0.01])  # two to warm up and one to fill, then StopIteration

    results = race(
        {"broken": broken, "fails later": lambda calls: next(later), "good": sleeper(0.001)},
        rounds=2,
        window_s=0.002,
    )
    assert list(results) == ["broken", "fails later", "good"]
    assert isinstance(results["broken"], NotImplementedError)
    assert isinstance(results["fails later"], StopIteration)
    assert results["good"].rounds == 2


def test_a_jax_program_is_waited_for():
    calls = []

    def program(x):
        calls.append(x)
        return x + 1

    assert timer(program, jnp.ones(3))(4) > 0
    assert len(calls) == 4


def test_clocks_are_medians_of_busy_samples():
    text = "1980, 3201, 650.1, 99\n345, 3201, 80.0, 0\n1500, 3201, 640.3, 98\n[N/A], 1, 2, 3\n19"
    assert _medians(text) == {
        "sm_clock_mhz": 1740.0,
        "memory_clock_mhz": 3201.0,
        "power_w": pytest.approx(645.2),
    }
    assert _medians("") == {}
