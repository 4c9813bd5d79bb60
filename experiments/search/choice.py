"""From measurements to an attention: the three searches."""

import dataclasses
from typing import Any

import numpy as np

from experiments.search.choice_report import compare, describe
from experiments.search.run_probes import measure
from experiments.search.task import Task
from sparsevdit_jax import SparseAttention
from sparsevdit_jax.search.measurements import Measurements
from sparsevdit_jax.search.mixture import assign
from sparsevdit_jax.search.rules import (
    SparseVditRule,
    calibrate_epsilon,
    least_error,
    shared_over_steps,
)
from sparsevdit_jax.search.tables import choice_density, fixed_table, step_table


@dataclasses.dataclass(frozen=True)
class Choice:
    """A search's result.

    Attributes:
      attention: to run with.
      choice: int [steps that count, layers, heads], candidates; -1 full attention.
      by_prompt: the same from each prompt alone, [P, ...].
      steps: which steps count.
      report: numbers, as JSON.
    """

    attention: SparseAttention
    choice: np.ndarray
    by_prompt: np.ndarray
    steps: np.ndarray
    report: dict[str, Any]


def choose(task: Task) -> Choice:
    """Measures, and chooses by the method of the flags."""
    return {"sta": _sta, "sparse-vdit": _sparse_vdit, "mixture": _mixture}[task.config.method](task)


def _sta(task: Task) -> Choice:
    found = measure(task.subject, task.config, task.candidates, task.schedule)
    steps = task.steps
    error = found.error[:, steps]
    by_prompt = np.stack([least_error(e[None]) for e in error])
    if task.config.shared:
        error = np.broadcast_to(shared_over_steps(error, 1)[:, None], error.shape)
    choice = least_error(error[task.calibration])
    return _finish(task, found, steps, choice, by_prompt, {})


def _sparse_vdit(task: Task) -> Choice:
    config = task.config
    rule = SparseVditRule(tuple(task.costs), config.lam, config.epsilon, config.relative)
    rounds = []
    if config.density is None:
        found = measure(
            task.subject, config, task.candidates, task.schedule, rule=rule, name="sequential"
        )
    else:
        found = measure(task.subject, config, task.candidates, task.schedule)
        rule = _calibrated(task, found, rule)
        for i in range(1, config.rounds + 1):
            name = f"sequential-{i}"
            found = measure(
                task.subject, config, task.candidates, task.schedule, rule=rule, name=name
            )
            fed = choice_density(found.choice[:, task.steps], task.densities).mean()
            rounds.append(dict(epsilon=rule.epsilon, density=float(fed)))
            rule = _calibrated(task, found, rule)
    steps = task.steps
    error, power = found.error[:, steps], found.power[:, steps]
    by_prompt = rule.choose(error, power)
    if config.shared:
        error, power = (
            np.broadcast_to(shared_over_steps(x, 1)[:, None], x.shape) for x in (error, power)
        )
    choice = rule.choose(error[task.calibration].mean(0), power[task.calibration].mean(0))
    more = dict(rule=dataclasses.asdict(rule), rounds=rounds)
    return _finish(task, found, steps, choice, by_prompt, more)


def _calibrated(task: Task, found: Measurements, rule: SparseVditRule) -> SparseVditRule:
    steps = task.steps
    error, power = found.error[task.calibration, steps], found.power[task.calibration, steps]
    if task.config.shared:
        error, power = shared_over_steps(error, 1), shared_over_steps(power, 1)
    return calibrate_epsilon(
        error.mean(0), power.mean(0), rule, task.densities, target=task.config.density
    )


def _mixture(task: Task) -> Choice:
    config = task.config
    found = measure(task.subject, config, task.candidates, task.schedule)
    steps = task.steps
    error = found.error[:, steps]
    if config.relative:
        error = error / np.maximum(found.power[:, steps], 1e-30)[..., None, :]
    calibration, held_out = (
        _heads(shared_over_steps(error[part].mean(0))) if len(error[part]) else None
        for part in (task.calibration, task.held_out)
    )
    layers, heads = error.shape[2], error.shape[4]
    budget = config.density * layers * heads
    fixed = assign(calibration, task.costs, cost_budget=budget).choice
    alone = [
        assign(_heads(shared_over_steps(e)), task.costs, cost_budget=budget).choice for e in error
    ]
    choice, by_prompt = (
        np.broadcast_to(
            np.reshape(c, (*lead, 1, layers, heads)), (*lead, len(steps), layers, heads)
        )
        for c, lead in ((fixed, ()), (np.stack(alone), (len(alone),)))
    )
    more = dict(comparison=compare(calibration, held_out, task), relative=config.relative)
    return _finish(task, found, steps, choice, by_prompt, more)


def _heads(error: np.ndarray) -> np.ndarray:
    """[N, C, H] -> [N * H, C]."""
    return np.moveaxis(error, 1, 2).reshape(-1, error.shape[1])


def _finish(task: Task, found, steps, choice, by_prompt, more) -> Choice:
    config, grid = task.config, task.subject.grid
    if config.method == "mixture":
        attention = fixed_table(choice[0], task.candidates, task.schedule, grid=grid)
    else:
        whole = np.full((task.subject.num_steps, *choice.shape[1:]), -1)
        whole[steps] = choice
        attention = step_table(whole, task.candidates, task.schedule, grid=grid)
    report = describe(task, found, steps, choice, by_prompt) | more
    return Choice(attention, choice, by_prompt, steps, report)
