"""Mixes all methods: the choice with the least error at a cost, or the least cost at an error.

Each head takes one candidate of any kind (STA windows, AdaSpa, diagonals, stripes, dense, skip).
Errors and costs add up over heads, so this is the multiple-choice knapsack problem. HiGHS solves it
exactly, as an integer program (`scipy.optimize.milp`). One method for all heads is among the choices,
so no single method has less error at equal cost.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What was chosen, and what it sums up to.

    Attributes:
      choice: int [G], the candidate of each head.
      error: sum of the chosen errors.
      cost: sum of the chosen costs.
      bound: no assignment within the budget has an objective below this; equal to the one that was
        minimised, up to rounding, since the solution is exact.
    """

    choice: np.ndarray
    error: float
    cost: float
    bound: float


def assign(
    error: np.ndarray,
    cost: np.ndarray,
    *,
    cost_budget: float | None = None,
    error_budget: float | None = None,
) -> Assignment:
    """The assignment of least error within `cost_budget`, or of least cost within `error_budget`.

    Args:
      error: [G, C], error of head g under candidate c; infinite where it must not be chosen.
      cost: [G, C] or [C], its cost (density, or measured and relative to dense attention).
      cost_budget: largest sum of costs. Sums within 1e-9 of it, relatively, count as within.
      error_budget: likewise for errors; give one of the two.

    Raises:
      ValueError: both budgets or none, wrong shapes, or nothing is within the budget (the message
        says what the least possible is).
    """
    error = np.asarray(error, np.float64)
    if error.ndim != 2 or not error.size:
        raise ValueError(f"error has shape {error.shape}; it must be [heads, candidates]")
    cost = np.broadcast_to(np.asarray(cost, np.float64), error.shape)
    if (cost_budget is None) == (error_budget is None):
        raise ValueError(f"give one of {cost_budget=} and {error_budget=}, not both or none")
    if cost_budget is not None:
        choice, bound = _solve(error, cost, cost_budget, "cost")
    else:
        choice, bound = _solve(cost, error, error_budget, "error")
    heads = np.arange(len(error))
    return Assignment(choice, error[heads, choice].sum(), cost[heads, choice].sum(), bound)


def uniform(error: np.ndarray, cost: np.ndarray) -> list[Assignment]:
    """The assignments that give every head the same candidate, in order of the candidates."""
    error = np.asarray(error, np.float64)
    cost = np.broadcast_to(np.asarray(cost, np.float64), error.shape)
    return [
        Assignment(np.full(len(error), c), error[:, c].sum(), cost[:, c].sum(), -np.inf)
        for c in range(error.shape[1])
    ]


def _solve(objective, weight, budget, what):
    """(choice, lower bound) of least objective with summed weight within the budget."""
    usable = np.isfinite(objective) & np.isfinite(weight)
    if not usable.any(1).all():
        head = int(np.argmin(usable.any(1)))
        raise ValueError(f"head {head} has no candidate of finite error and cost; add one")
    least = np.where(usable, weight, np.inf).min(1).sum()
    objective = np.where(usable, objective, np.inf)
    weight = np.where(usable, weight, weight[usable].max() + 1)  # finite, and never the lightest
    if not budget >= -np.inf:
        raise ValueError(f"{what}_budget={budget} must be a number; no sum is within nan")
    slack = 1e-9 * max(abs(budget), abs(least))
    if least > budget + slack:
        raise ValueError(
            f"{what}_budget={budget} is below {least:.6g}, the least that these candidates can "
            "have; raise it or add candidates"
        )
    price, bound, relaxed = _lagrangian(objective, weight, budget + slack)
    best = _total(objective, relaxed)
    # A candidate whose price alone lifts the bound above a known solution is in no better one.
    priced = objective + price * weight
    worth = usable & (priced - priced.min(1, keepdims=True) <= best - bound + 1e-12 * abs(best))
    if (worth.sum(1) == 1).all():
        return relaxed, bound
    exact, bound = _integer_program(objective, weight, budget + slack, worth, best, bound)
    return (exact if _total(objective, exact) <= best else relaxed), bound


def _lagrangian(objective, weight, budget):
    """Best price of weight by bisection, the bound it proves, and the choice within the budget."""

    def at(price):
        priced = objective + price * weight
        choice = np.lexsort((weight, priced), axis=-1)[:, 0]  # of equal ones the lightest
        bound = priced.min(1).sum() - price * budget
        return choice, bound, _total(weight, choice) <= budget

    choice, bound, within = at(0.0)
    if within:
        return 0.0, bound, choice
    low, high = 0.0, 1.0
    while not at(high)[2]:
        low, high = high, 4 * high
        if high > 1e30:  # only the lightest candidates of all fit
            lightest = np.lexsort((objective, weight), axis=-1)[:, 0]
            return low, at(low)[1], lightest
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle)[2] else (middle, high)
    choice, bound, _ = at(high)
    return high, bound, choice


def _integer_program(objective, weight, budget, worth, scale, bound):
    """(choice, lower bound) among the candidates that are `worth` it."""
    from scipy import optimize, sparse

    heads, members = np.nonzero(worth)
    value, load = objective[heads, members], weight[heads, members]
    one_each = sparse.csr_array((np.ones(len(heads)), (heads, np.arange(len(heads)))))
    # In units of the budget and of a known solution: the solver's tolerances are absolute.
    scale, unit, limit = abs(scale) or 1.0, abs(budget) or 1.0, budget
    choice = np.where(worth, weight, np.inf).argmin(1)
    for _ in range(8):
        result = optimize.milp(
            value / scale,
            integrality=np.ones(len(heads)),
            bounds=optimize.Bounds(0, 1),
            constraints=[
                optimize.LinearConstraint(one_each, 1, 1),
                optimize.LinearConstraint(load[None] / unit, -np.inf, limit / unit),
            ],
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            break
        picked = np.flatnonzero(result.x > 0.5)
        found = members[picked[np.argsort(heads[picked])]]
        bound = max(bound, (result.mip_dual_bound or 0.0) * scale) if limit == budget else bound
        over = _total(weight, found) - budget
        if over <= 0:
            return found, bound
        limit -= 2 * over  # the solver allows itself to exceed a limit by a millionth
    return choice, bound


def _total(values, choice):
    return values[np.arange(len(choice)), choice].sum()
