"""Sparse-vDiT (arXiv 2506.03065v1): latencies, FLOPs and what they imply, its search loss."""

from collections.abc import Iterator

import numpy as np

from experiments.paper_figures.figure import BY_HAND, Figure, Number, number
from sparsevdit_jax import VideoGrid

STEPS, FULL_STEPS = 50, 10

MODELS = {  # grid, width, layers, passes per step (2: classifier-free guidance), tokens
    "CogVideoX1.5": (VideoGrid(11, 48, 85, text_len=226), 48 * 64, 42, 2, "45106"),
    "HunyuanVideo": (VideoGrid(33, 45, 80, text_len=256), 24 * 128, 60, 1, "119056"),
    "Wan2.1": (VideoGrid(21, 45, 80), 40 * 128, 40, 2, "75600"),
}

SECONDS = ("901", "3166", "1935")  # full attention, in the order of MODELS

SPEED = {  # method -> (seconds, speed-up) in the order of MODELS
    "MInference": (("634", "1.42"), ("2042", "1.55"), ("1453", "1.33")),
    "spatial window": (("531", "1.69"), ("1755", "1.80"), ("1265", "1.53")),
    "temporal window": (("537", "1.67"), ("1764", "1.79"), ("1280", "1.51")),
    "PAB": (("630", "1.43"), None, None),
    "SVG": (("550", "1.64"), ("1802", "1.75"), ("1298", "1.49")),
    "Sparse-vDiT": (("511", "1.76"), ("1715", "1.85"), ("1228", "1.58")),
    "Sparse-vDiT, FP8": (None, None, ("1089", "1.78")),
}

PFLOPS = {  # dense, Sparse-vDiT, reduction; by hand: attention, overall density, after full steps
    "CogVideoX1.5": ("147.87", "70.69", "2.09", "105.0", "0.265", None),
    "HunyuanVideo": ("612.37", "257.09", "2.38", "522.5", "0.320", "0.150"),
    "Wan2.1": ("660.49", "397.39", "1.67", "468.2", "0.438", "0.298"),
}

LOSSES = ("0.5", "0.9", "0.3", "0.5", "0.3")  # of modes M0..M4 in the first example


def mode_losses(errors, sparsities, weight: float = 0.5) -> np.ndarray:
    """Loss of each mode, ``MSE + weight * (1 - sparsity)``.

    The paper's Eq. 2; its Algorithm 1 has ``weight * sparsity``, which would reward density.
    """
    return np.asarray(errors, float) + weight * (1 - np.asarray(sparsities, float))


def choose_mode(losses, bound: float = 1.0) -> int:
    """The best of modes M1.. (ties to the lowest), or M0, full, where all exceed `bound`."""
    sparse = np.round(losses[1:], 12)  # ties in exact arithmetic stay ties
    return 0 if (sparse > bound).all() else 1 + int(sparse.argmin())


def attention_pflops(model: str) -> float:
    """PFLOPs of full attention in a run: 4 N^2 per channel, layer, step and pass."""
    grid, width, layers, passes, _ = MODELS[model]
    return 4 * grid.num_tokens**2 * width * layers * STEPS * passes / 1e15


def implied_density(model: str) -> Number:
    """Density of attention over the run that explains the printed PFLOPs, all else equal."""
    dense, sparse, *_ = PFLOPS[model]
    return Number(1.0) - (number(dense) - sparse) / attention_pflops(model)


def rows() -> Iterator[Figure]:
    """All of Sparse-vDiT's figures."""
    for method, cells in SPEED.items():
        for model, full, cell in zip(MODELS, SECONDS, cells, strict=True):
            if cell:
                ratio = number(full) / cell[0]
                yield _figure("speed-up", f"{method}, {model}", ratio, cell[1], "main table")
    yield _figure(
        "speed-up",
        "Sparse-vDiT, FP8 over SVG, Wan2.1",
        number(SPEED["SVG"][2][0]) / SPEED["Sparse-vDiT, FP8"][2][0],
        "1.78",
        "text",
        "the text says 1.78 over SVG; that is the speed-up over full attention",
    )
    for model, (dense, sparse, reduction, *_) in PFLOPS.items():
        note = (
            "the printed PFLOPs give 1.66; 1.67 is no rounding of it" if model == "Wan2.1" else ""
        )
        ratio = number(dense) / sparse
        yield _figure("FLOP reduction", model, ratio, reduction, "main table, text", note)
    for model, (grid, *_, tokens) in MODELS.items():
        yield _figure("tokens", model, grid.num_tokens, tokens, "settings")
    for model, (dense, _, _, attention, _, _) in PFLOPS.items():
        pflops = attention_pflops(model)
        yield _figure("PFLOPs of attention", model, pflops, attention, BY_HAND)
        yield _figure(
            "PFLOPs of attention", f"{model}, less than all", pflops, f"< {dense}", "main table"
        )
    for model, (*_, overall, after) in PFLOPS.items():
        density = implied_density(model)
        yield _figure(
            "attention density implied by PFLOPs", f"{model}, all steps", density, overall, BY_HAND
        )
        if after:
            full = FULL_STEPS / STEPS
            density = (density - full) / (1 - full)
            yield _figure(
                "attention density implied by PFLOPs",
                f"{model}, after 10 full steps",
                density,
                after,
                BY_HAND,
            )
    one = mode_losses([0.2], [0.8])[0]
    yield _figure("search loss", "MSE 0.2, sparsity 0.8", one, "0.3", BY_HAND)
    losses = mode_losses([0, 0.9, 0.2, 0.4, 0.1], [0, 1, 0.8, 0.8, 0.6])
    for mode, (loss, printed) in enumerate(zip(losses, LOSSES, strict=True)):
        yield _figure("search loss", f"example, mode M{mode}", loss, printed, BY_HAND)
    yield _figure("search loss", "example, mode chosen", choose_mode(losses), "2", BY_HAND)
    losses = mode_losses([0, 3, 2, 4, 1.5], [0, 1, 0.8, 0.8, 0.6])
    yield _figure(
        "search loss", "all above the bound: full attention", choose_mode(losses), "0", BY_HAND
    )


def _figure(group, name, computed, printed, where, note=""):
    return Figure("sparse-vdit", group, name, computed, printed, where, note)
