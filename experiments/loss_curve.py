"""A training run's loss, and what finetuning brought back, as pictures."""

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


def draw_recovery(rows: Sequence[dict], path: Path) -> None:
    """What a sparse model gains while it is finetuned: held-out loss, PSNR and SSIM over steps, in a PNG file.

    Args:
      rows: `measured` of the records of `finetune_sta`; one of them of the dense model, one of a black clip.
      path: where to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    dense, black = (
        next(row for row in rows if row["model"] == model) for model in ("dense", "black")
    )
    student = sorted((row for row in rows if row["model"] == "student"), key=lambda r: r["step"])
    steps = [row["step"] for row in student]
    panels = (
        ("held_out_data_loss", "velocity loss, held-out digits"),
        ("psnr_db", "PSNR to the dense clips, dB"),
        ("ssim", "SSIM to the dense clips"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for axis, (key, title) in zip(axes, panels, strict=True):
        values = [row[key] for row in student]
        means = [sum(row) / len(row) for row in values]
        if (
            key != "held_out_data_loss"
        ):  # the spread of losses is that of their times: of no use here
            axis.plot(steps, values, color="#9db8d9", linewidth=1)
        axis.plot(steps, means, color="#1f5fa8", linewidth=2, marker="o")
        for step, mean in ((steps[0], means[0]), (steps[-1], means[-1])):
            axis.annotate(
                f"{mean:.3g}", (step, mean), (0, 7), textcoords="offset points", ha="center"
            )
        axis.set(xlabel="finetuning steps", title=title)
        axis.margins(x=0.12, y=0.15)
        axis.grid(alpha=0.3)
    for axis, (key, _), row in zip(axes, panels, (dense, black, black), strict=True):
        level = sum(row[key]) / len(row[key])
        axis.axhline(level, color="#555555", linestyle="--")
        name = "dense" if row is dense else "black clip"
        axis.annotate(f"{name} {level:.3g}", (steps[0], level), (0, 5), textcoords="offset points")
    figure.suptitle(f"One window in all heads, {student[0]['density']:.1%} of all pairs")
    figure.savefig(path, dpi=130)
    plt.close(figure)
