"""A training run's loss as a picture."""

from collections.abc import Sequence
from pathlib import Path


def whole_curve(record: dict) -> list[tuple[int, float]]:
    """(step, loss) of a run and, before it, of the runs that it started from; steps count on."""
    earlier = whole_curve(record["started_from"]) if record.get("started_from") else []
    offset = earlier[-1][0] if earlier else 0
    return earlier + [(offset + step, loss) for step, loss in record.get("loss", [])]


def draw_losses(curve: Sequence[tuple[int, float]], path: Path) -> None:
    """Writes `curve` to a PNG file, losses on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.semilogy(*zip(*curve, strict=True), linewidth=1.5)
    axes.set(xlabel="step", ylabel="velocity loss (mean of 50 steps)")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130)
    plt.close(figure)
