import numpy as np
import pytest

from sparsevdit_jax import Phase, StepSchedule
from sparsevdit_jax.schedule import attention_cost, exact_steps

D, F, S, R = Phase.DENSE, Phase.FIRST_SEARCH, Phase.SEARCH, Phase.REUSE


def test_adaspa_read_from_one():
    schedule = StepSchedule.adaspa()
    assert schedule.phases() == (D,) * 9 + (F,) + (R,) * 19 + (S,) + (R,) * 20
    assert exact_steps(schedule) == 10
    assert schedule.num_steps - exact_steps(schedule) == 40
    assert schedule.counts() == {D: 9, F: 1, S: 1, R: 39}
    assert attention_cost(schedule, 0.2) == pytest.approx(19.0)


def test_adaspa_read_from_zero():
    schedule = StepSchedule.adaspa(first_step=0)
    assert schedule.phases() == (D,) * 10 + (F,) + (R,) * 19 + (S,) + (R,) * 19
    assert exact_steps(schedule) == 11
    assert attention_cost(schedule, 0.2) == pytest.approx(19.8)


@pytest.mark.parametrize(
    ("search_steps", "density", "cost"),
    [((10,), 0.2, 18.5), ((10, 20, 30, 40), 0.2, 20.0), ((1, 30), 0.1, 6.9)],
)
def test_costs_of_other_search_steps(search_steps, density, cost):
    schedule = StepSchedule.adaspa(search_steps=search_steps)
    assert attention_cost(schedule, density) == pytest.approx(cost)


@pytest.mark.parametrize(
    ("search_steps", "cost"), [((10,), 18.5), ((10, 30), 19.5), ((10, 20, 30, 40), 21.5)]
)
def test_every_search_but_the_first_costs_another_pass_without_the_cache(search_steps, cost):
    schedule = StepSchedule.adaspa(search_steps=search_steps)
    assert attention_cost(schedule, 0.2, lse_cache=False) == pytest.approx(cost)


def test_sta_and_no_schedule():
    assert StepSchedule(4, dense_steps=2).phases() == (D, D, R, R)
    assert StepSchedule(3).phases() == (R, R, R)
    assert StepSchedule(3, search_steps=[1, 2]).phases() == (R, F, S)
    assert StepSchedule.adaspa(3, ()).phases() == (D, D, D)


def test_last_steps_are_dense_again_and_searches_lie_between():
    schedule = StepSchedule(7, 1, (2, 4), dense_last_steps=2)
    assert schedule.phases() == (D, R, F, R, S, D, D)
    assert exact_steps(schedule) == 4
    assert attention_cost(schedule, 0.2) == pytest.approx(3 + 1.5 + 0.2 + 0.2 + 0.7)
    assert StepSchedule(3, 1, dense_last_steps=2).phases() == (D, D, D)


@pytest.mark.parametrize(
    ("first", "last", "phases"),
    [
        (None, None, "dddfrrrsrr"),
        (None, 2, "dddfrrrsdd"),
        (None, 3, "dddfrrrddd"),
        (5, None, "dddddfrsrr"),
        (8, None, "ddddddddfr"),
        (0, None, "frrrrrrsrr"),
        (9, 1, "d" * 10),
        (6, 3, "ddddddfddd"),
    ],
)
def test_searches_make_room_for_dense_steps(first, last, phases):
    schedule = StepSchedule.adaspa(10, (4, 8)).with_dense(first, last)
    assert "".join(phase.value[0] for phase in schedule.phases()) == phases
    assert schedule.with_dense() == schedule


def test_a_first_search_away_from_the_dense_steps_keeps_its_distance_and_its_place_in_the_run():
    schedule = StepSchedule(10, 2, (5,))
    assert schedule.with_dense(first=3).search_steps == (6,)
    assert schedule.with_dense(first=8).search_steps == (9,)
    assert schedule.with_dense(last=6).search_steps == (3,)


def test_the_dictionary_of_a_schedule_has_a_later_field_only_where_it_says_something():
    assert "dense_last_steps" not in StepSchedule(4, 1).to_dict()
    assert StepSchedule(**StepSchedule(4, 1, dense_last_steps=2).to_dict()).dense_last_steps == 2


def test_numpy_s_numbers_become_python_s():
    schedule = StepSchedule(np.int64(4), np.int32(1), (np.int64(1),), np.int8(0), np.int64(1))
    assert {
        type(v) for v in (schedule.num_steps, schedule.dense_steps, *schedule.search_steps)
    } == {int}
    assert schedule == StepSchedule(4, 1, (1,), 0, 1)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"num_steps": 0}, "num_steps=0 must be a whole number of at least 1"),
        ({"num_steps": 4.0}, "num_steps=4.0 must be a whole number"),
        ({"dense_steps": -1}, "dense_steps=-1 must be a whole number of at least 0"),
        ({"dense_steps": True}, "dense_steps=True must be a whole number"),
        ({"dense_last_steps": -1}, "dense_last_steps=-1 must be a whole number of at least 0"),
        ({"search_steps": (3.5,)}, r"search_steps=\(3.5,\) must be whole numbers"),
        ({"dense_steps": 51}, "dense_steps=51 and dense_last_steps=0 are more than num_steps=50"),
        ({"dense_steps": 26, "dense_last_steps": 25}, "lower one of them"),
        ({"search_steps": (45,), "dense_last_steps": 5}, r"lie outside 0\.\.44: .* 5 last dense"),
        ({"first_step": 2}, "first_step=2 must be 0 or 1"),
        ({"search_steps": (30, 10)}, r"search_steps=\(30, 10\) must be ascending"),
        ({"search_steps": (5, 5)}, "must be ascending and distinct"),
        ({"search_steps": (50,)}, r"search_steps \[50\] lie outside 0\.\.49"),
        ({"search_steps": (0,), "first_step": 1}, r"search_steps \[0\] lie outside 1\.\.50"),
        ({"search_steps": (3,), "dense_steps": 10}, r"lie outside 10\.\.49: .* 10 leading"),
    ],
)
def test_bad_schedules(kwargs, match):
    with pytest.raises(ValueError, match=match):
        StepSchedule(**kwargs)


def test_steps_outside():
    with pytest.raises(ValueError, match=r"step=3 lies outside this schedule's 0\.\.2"):
        StepSchedule(3).phase(3)
