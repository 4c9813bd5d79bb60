"""From measurements to an attention, and what can be said of it in numbers."""

import dataclasses
from typing import Any

import numpy as np

from experiments.search.measure import measure
from experiments.search.settings import Config
from experiments.search.subjects import Subject
from sparsevdit_jax import SparseAttention, StepSchedule
from sparsevdit_jax.offline.costs import CostTable
from sparsevdit_jax.offline.measurements import Measurements
from sparsevdit_jax.offline.mixture import assign, uniform
from sparsevdit_jax.offline.rules import (
    SparseVditRule,
    agreement,
    calibrate_epsilon,
    least_error,
    shared_over_steps,
)
from sparsevdit_jax.offline.tables import (
    choice_density,
    declared_density,
    fixed_table,
    step_table,
)
from sparsevdit_jax.patterns import AdaSpa

FRONTIER = (0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
"""Budgets, in mean cost, at which a mixture is compared with single methods."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What every method's choice needs.

    Attributes:
      costs: of each candidate, relative to dense attention: measured, or its density.
      densities: of each candidate.
    """

    config: Config
    subject: Subject
    candidates: tuple
    schedule: StepSchedule
    costs: np.ndarray
    densities: np.ndarray

    @property
    def calibration(self) -> slice:
        """Prompts that decide; the others judge."""
        return slice(0, len(self.subject.prompts) - self.config.held_out)

    @property
    def held_out(self) -> slice:
        """Prompts that judge."""
        return slice(len(self.subject.prompts) - self.config.held_out, None)

    def steps(self, found: Measurements) -> np.ndarray:
        """Steps that count."""
        online = any(isinstance(p, AdaSpa) for p in self.candidates)
        return found.sparse_steps(self.schedule, online=online)


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
    steps = task.steps(found)
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
            fed = choice_density(found.choice[:, task.steps(found)], task.densities).mean()
            rounds.append(dict(epsilon=rule.epsilon, density=float(fed)))
            rule = _calibrated(task, found, rule)
    steps = task.steps(found)
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
    steps = task.steps(found)
    error, power = found.error[task.calibration, steps], found.power[task.calibration, steps]
    if task.config.shared:
        error, power = shared_over_steps(error, 1), shared_over_steps(power, 1)
    return calibrate_epsilon(
        error.mean(0), power.mean(0), rule, task.densities, target=task.config.density
    )


def _mixture(task: Task) -> Choice:
    config = task.config
    found = measure(task.subject, config, task.candidates, task.schedule)
    steps = task.steps(found)
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


def compare(calibration: np.ndarray, held_out: np.ndarray | None, task: Task) -> dict[str, Any]:
    """The mixture beside each single candidate at that candidate's own cost, and its frontier.

    Errors are means over heads, [G, C] in; choices are made on `calibration` and judged on both.
    """
    count = len(calibration)

    def row(choice) -> dict[str, float]:
        heads = np.arange(count)
        errors = {"calibration_error": float(calibration[heads, choice].mean())}
        if held_out is not None:
            errors["held_out_error"] = float(held_out[heads, choice].mean())
        cost = float(task.costs[choice].mean())
        return dict(cost_ratio=cost, density=float(task.densities[choice].mean()), **errors)

    singles = []
    for c, single in enumerate(uniform(calibration, task.costs)):
        mixed = assign(calibration, task.costs, cost_budget=single.cost)
        singles.append(
            dict(candidate=str(task.candidates[c]))
            | {"single": row(single.choice), "mixture": row(mixed.choice)}
        )
    budgets = sorted({b for b in FRONTIER if b >= task.costs.min()} | set(task.costs.tolist()))
    frontier = [row(assign(calibration, task.costs, cost_budget=b * count).choice) for b in budgets]
    return dict(singles=singles, frontier=frontier)


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
    report = dict(
        density=float(choice_density(choice, task.densities).mean()),
        density_run=float(_run_density(task, choice)),
        candidates=_counts(task, choice),
        chosen_error=_errors(task, found, steps, choice),
        stability=_stability(by_prompt),
        **more,
    )
    return Choice(attention, choice, by_prompt, steps, report)


def _run_density(task, choice) -> float:
    """Mean over all steps of the run, exact ones included."""
    sparse = choice_density(choice, task.densities).mean(1).mean(1)
    total = task.subject.num_steps
    return (sparse.sum() + total - len(sparse)) / total


def _counts(task, choice) -> list[dict[str, Any]]:
    """Each candidate with its density, its cost and the share of (step, layer, head) that have it."""
    rows = [
        dict(
            pattern=str(pattern),
            density=float(task.densities[i]),
            cost_ratio=float(task.costs[i]),
            share=float((choice == i).mean()),
        )
        for i, pattern in enumerate(task.candidates)
    ]
    if (choice == -1).any():
        full = dict(pattern="full attention", density=1.0, cost_ratio=1.0)
        rows.append(dict(full, share=float((choice == -1).mean())))
    return rows


def _errors(task, found, steps, choice) -> dict[str, float]:
    """Mean squared output error of the chosen, and of the best single candidate, on both sets."""
    result = {}
    for name, part in (("calibration", task.calibration), ("held_out", task.held_out)):
        error = found.error[part, steps]
        if not len(error):
            continue
        padded = np.concatenate([error, np.zeros_like(error[..., :1, :])], -2)  # -1: no error
        index = np.where(choice < 0, error.shape[-2], choice)[None, ..., None, :]
        chosen = np.take_along_axis(
            padded, np.broadcast_to(index, (len(error), *index.shape[1:])), -2
        )
        result[f"{name}_error"] = float(chosen.mean())
        result[f"{name}_least_error"] = float(error.min(-2).mean())
        # Of the candidates that cost no more than what was chosen.
        affordable = task.costs <= choice_density(choice, task.costs).mean() * (1 + 1e-9)
        if affordable.any():
            singles = error.mean((0, 1, 2, 4))[affordable]
            result[f"{name}_best_single_error"] = float(singles.min())
    return result


def agreeing(by_prompt: np.ndarray) -> list[tuple[str, int]]:
    """The axes along which choices may differ: prompts, and steps where they have choices of their own."""
    fixed = (by_prompt == by_prompt[:, :1]).all()
    axes = (("prompts", 0),) if fixed else (("prompts", 0), ("steps", 1))
    return [(name, axis) for name, axis in axes if by_prompt.shape[axis] > 1]


def _stability(by_prompt) -> dict[str, Any]:
    """How far choices from single prompts agree over prompts and over steps, beside chance."""
    result = {}
    for name, axis in agreeing(by_prompt):
        found = agreement(by_prompt, axis)
        result[name] = dict(
            agreement_share=found.mean,
            chance_share=found.chance,
            kappa_correlation=found.kappa,
        )
    return result


def make_task(config: Config, subject: Subject, candidates: tuple, schedule: StepSchedule) -> Task:
    """Costs and densities of the candidates on the subject's canvas.

    Raises:
      ValueError: a table of costs was given that has not measured every candidate here.
    """
    densities = np.array([declared_density(p, subject.grid) for p in candidates])
    if config.costs is None:
        return Task(config, subject, candidates, schedule, densities, densities)
    table = CostTable.from_json(config.costs.read_text(encoding="utf-8"))
    sizes = dict(num_heads=subject.num_heads, head_dim=subject.head_dim, dtype=config.dtype)
    costs = [table.relative(p, subject.grid, **sizes) for p in candidates]
    absent = [str(p) for p, cost in zip(candidates, costs, strict=True) if not cost.measured]
    if absent:
        raise ValueError(
            f"{config.costs} has no measurement on this device of {len(absent)} of {len(costs)} candidates "
            f"({absent[0]} is the first) for {subject.grid}, {sizes}; measure them with "
            "python -m experiments.measure_costs, or leave --costs out to take densities"
        )
    return Task(
        config, subject, candidates, schedule, np.array([cost.value for cost in costs]), densities
    )
