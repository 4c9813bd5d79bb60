"""What a search chose, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.search.choice import Choice
from experiments.search.choice_report import agreeing
from experiments.search.task import Task
from sparsevdit_jax.pattern import AttentionPattern
from sparsevdit_jax.search.rules import agreement

_FULL = "full"


def short_name(pattern: AttentionPattern) -> str:
    """A pattern in a legend's few letters."""
    name = type(pattern).__name__
    windows, density = getattr(pattern, "windows", None), getattr(pattern, "density", None)
    if windows is not None:
        return "STA " + "x".join(str(n) for n in windows[0])
    return name if density is None else f"{name} {density:g}"


def _plot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _colours(count: int) -> np.ndarray:
    """RGB of candidates, full attention last: grey."""
    plt = _plot()
    table = plt.get_cmap("tab10" if count <= 10 else "tab20")
    return np.array([table(i)[:3] for i in range(count)] + [(0.8, 0.8, 0.8)])


def _legend(figure, plt, names: Sequence[str], colours, used) -> None:
    """Below the picture, as many entries in a row as its width has room for."""
    handles = [
        plt.Line2D([], [], marker="s", linestyle="", markersize=9, color=colours[i], label=names[i])
        for i in used
    ]
    columns = max(1, int(figure.get_figwidth() // 1.7))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def draw_table(choice: Choice, task: Task, path: Path) -> None:
    """Steps by heads for every layer; leading full steps are drawn too."""
    plt = _plot()
    names = [*(short_name(p) for p in task.candidates), _FULL]
    colours = _colours(len(task.candidates))
    whole = np.full((task.subject.num_steps, *choice.choice.shape[1:]), -1)
    whole[choice.steps] = choice.choice
    layers = whole.shape[1]
    columns = min(layers, 10)
    rows = -(-layers // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1 + 1.15 * columns, 1.4 + 2.2 * rows), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    for layer, panel in enumerate(axes.flat):
        if layer >= layers:
            panel.axis("off")
            continue
        panel.imshow(colours[whole[:, layer]], aspect="auto", interpolation="nearest")
        panel.set_title(f"layer {layer}", fontsize=9)
    heads = whole.shape[2]
    axes[0, 0].set_xticks(range(0, heads, max(1, heads // 4)))
    for panel in axes[-1, : layers - columns * (rows - 1)]:
        panel.set_xlabel("head")
    figure.supylabel("denoising step", fontsize=10)
    _legend(figure, plt, names, colours, sorted(i % len(names) for i in np.unique(whole)))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_fixed(choice: Choice, task: Task, path: Path) -> None:
    """Layers by heads: the one candidate of each."""
    plt = _plot()
    names = [*(short_name(p) for p in task.candidates), _FULL]
    colours = _colours(len(task.candidates))
    table = choice.choice[0]
    figure, axes = plt.subplots(figsize=(6.4, 1.6 + 0.4 * len(table)), layout="constrained")
    axes.imshow(colours[table], aspect="auto", interpolation="nearest")
    axes.set(xlabel="head", ylabel="layer", xticks=range(table.shape[1]), yticks=range(len(table)))
    _legend(figure, plt, names, colours, sorted(i % len(names) for i in np.unique(table)))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_stability(choice: Choice, path: Path) -> None:
    """How often prompts, and steps, agree on a head's pattern: layers by heads."""
    plt = _plot()
    axes_of = agreeing(choice.by_prompt)
    figure, panels = plt.subplots(
        1, len(axes_of), figsize=(1 + 3.4 * len(axes_of), 3.4), squeeze=False, layout="constrained"
    )
    for panel, (name, axis) in zip(panels[0], axes_of, strict=True):
        found = agreement(choice.by_prompt, axis)
        image = panel.imshow(found.share.mean(0), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        panel.set_title(f"over {name}: {found.mean:.2f} (chance {found.chance:.2f})", fontsize=10)
        panel.set(xlabel="head", ylabel="layer")
    figure.colorbar(image, ax=list(panels[0]), label="share of pairs that chose the same")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_comparison(report: dict, task: Task, path: Path) -> None:
    """Error against cost: single candidates as points, the mixture as a line, on both sets."""
    plt = _plot()
    comparison = report["comparison"]
    sets = [s for s in ("calibration", "held_out") if f"{s}_error" in comparison["frontier"][0]]
    figure, panels = plt.subplots(
        1, len(sets), figsize=(1 + 4.6 * len(sets), 4.2), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    kinds = list(dict.fromkeys(type(p).__name__ for p in task.candidates))
    for panel, name in zip(panels[0], sets, strict=True):
        line = [r for r in comparison["frontier"] if r["calibration_error"] > 0]
        panel.plot(
            [r["cost_ratio"] for r in line], [r[f"{name}_error"] for r in line],
            "-o", color="black", markersize=3, label="mixture",
        )  # fmt: skip
        for i, kind in enumerate(kinds):
            points = [
                row["single"]
                for row, p in zip(comparison["singles"], task.candidates, strict=True)
                if type(p).__name__ == kind and row["single"][f"{name}_error"] > 0
            ]
            if points:
                panel.scatter(
                    [p["cost_ratio"] for p in points], [p[f"{name}_error"] for p in points],
                    marker="osD^vPX"[i % 7], label=kind,
                )  # fmt: skip
        panel.set(yscale="log", xlabel="mean cost of a head, relative to dense")
        panel.set_title(name.replace("_", "-") + " prompts", fontsize=10)
        panel.grid(alpha=0.3, which="both")
    panels[0, 0].set_ylabel("mean squared error of a head's output")
    panels[0, -1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_all(choice: Choice, task: Task, folder: Path, name: str) -> list[Path]:
    """Every picture of a search; returns their files."""
    chosen, stability = folder / f"{name}_chosen.png", folder / f"{name}_stability.png"
    fixed = task.config.method == "mixture" or task.config.shared
    (draw_fixed if fixed else draw_table)(choice, task, chosen)
    paths = [chosen]
    if choice.report["stability"]:
        draw_stability(choice, stability)
        paths.append(stability)
    if "comparison" in choice.report:
        paths.append(folder / f"{name}_frontier.png")
        draw_comparison(choice.report, task, paths[-1])
    return paths
