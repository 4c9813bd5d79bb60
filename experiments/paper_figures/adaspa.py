"""AdaSpa (arXiv 2502.21079v1): latencies, the cost of its schedule, head-adaptive sparsity."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from experiments.paper_figures.figure import BY_HAND, Figure, number
from sparsevdit_jax import StepSchedule
from sparsevdit_jax.schedule import attention_cost, exact_steps
from sparsevdit_jax.selection import head_adaptive_density

STEPS = 50

LATENCY = {  # model -> seconds with full attention, then (method, seconds, speed-up)
    "HunyuanVideo": (
        "3213.76",
        ("MInference", "2532.80", "1.27"),
        ("SVG", "2035.59", "1.58"),
        ("without head-adaptive", "1823.34", "1.76"),
        ("without LSE cache", "1877.13", "1.71"),
        ("AdaSpa", "1810.23", "1.78"),
    ),
    "CogVideoX1.5": (
        "3135.24",
        ("MInference", "2258.35", "1.39"),
        ("SVG", "2061.42", "1.52"),
        ("without head-adaptive", "1915.88", "1.64"),
        ("without LSE cache", "1961.71", "1.60"),
        ("AdaSpa", "1888.14", "1.66"),
    ),
}

SCHEDULES = (  # search steps, number of the first step, sparsity -> full attentions of 50
    ((10, 30), 1, 0.8, "19.0"),
    ((10, 30), 0, 0.8, "19.8"),
    ((10,), 1, 0.8, "18.5"),
    ((10, 20, 30, 40), 1, 0.8, "20.0"),
    ((1, 30), 1, 0.9, "6.9"),
)

RECALLS = ("0.95", "0.9", "0.5", "0.4", "0.6", "0.3")
SPARSITIES = {
    0.8: ("0.90", "0.90", "0.80", "0.70", "0.80", "0.70"),
    0.9: ("0.95", "0.95", "0.90", "0.85", "0.90", "0.85"),
}


def rows() -> Iterator[Figure]:
    """All of AdaSpa's figures."""
    for model, (full, *methods) in LATENCY.items():
        for method, seconds, speedup in methods:
            ratio = number(full) / seconds
            yield Figure("adaspa", f"speed-up on {model}", method, ratio, speedup, "main table")
    for search, first, sparsity, cost in SCHEDULES:
        steps = "{" + ", ".join(map(str, search)) + "}"
        schedule = StepSchedule.adaspa(STEPS, search, first)
        name = f"searches {steps} from step {first}, sparsity {sparsity}"
        spent = attention_cost(schedule, 1 - sparsity)
        yield Figure("adaspa", "cost in full attentions", name, spent, cost, BY_HAND)
    default = StepSchedule.adaspa()
    uncached = attention_cost(default, 0.2, lse_cache=False)
    name = "searches {10, 30} from step 1, sparsity 0.8, no LSE cache"
    yield Figure("adaspa", "cost in full attentions", name, uncached, "19.5", BY_HAND)
    group = "schedule {10, 30} of 50"
    zero_based = StepSchedule.adaspa(first_step=0)
    yield Figure("adaspa", group, "exact steps, read from 1", exact_steps(default), "10", "text")
    yield Figure(
        "adaspa", group, "exact steps, read from 0", exact_steps(zero_based), "11", BY_HAND
    )
    sparse = STEPS - exact_steps(default)
    yield Figure("adaspa", group, "sparse steps, read from 1", sparse, "40", BY_HAND)
    search = attention_cost(default, 0.2) - exact_steps(default) - 0.2 * sparse
    share = 100 * search / STEPS
    yield Figure("adaspa", group, "searches, % of full attention", share, "< 5", "text")
    for sparsity, expected in SPARSITIES.items():
        group = f"head-adaptive sparsity, base {sparsity}"
        recall = jnp.asarray([float(r) for r in RECALLS], jnp.float32)
        ours = 1 - np.asarray(head_adaptive_density(recall, 1 - sparsity), np.float64)
        for value, head, printed in zip(ours, RECALLS, expected, strict=True):
            yield Figure("adaspa", group, f"head of recall {head}", value, printed, BY_HAND)
        yield Figure("adaspa", group, "mean of heads", ours.mean(), f"{sparsity:.2f}", "text")
