"""What can be said of a choice in numbers: density, errors beside single methods, stability."""

from typing import Any

import numpy as np

from experiments.search.task import Task
from sparsevdit_jax.search.mixture import assign, uniform
from sparsevdit_jax.search.rules import agreement
from sparsevdit_jax.search.tables import choice_density

FRONTIER = (0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
"""Budgets, in mean cost, at which a mixture is compared with single methods."""


def describe(task: Task, found, steps, choice, by_prompt) -> dict[str, Any]:
    """Numbers of every search, as JSON; arguments as in `Choice` and `Measurements`."""
    return dict(
        density=float(choice_density(choice, task.densities).mean()),
        density_run=float(_run_density(task, choice)),
        candidates=_counts(task, choice),
        chosen_error=_errors(task, found, steps, choice),
        stability=_stability(by_prompt),
    )


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


def _run_density(task, choice) -> float:
    """Mean over all steps of the run, dense ones included."""
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
