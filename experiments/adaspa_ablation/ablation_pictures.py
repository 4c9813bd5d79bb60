"""The pictures of the ablation, drawn from its records."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

LINES = {  # method -> colour, dash, where its name stands relative to the last point
    "AdaSpa": ("#1f77b4", "-"),
    "AdaSpa, first search's masks": ("#1f77b4", ":"),
    "AdaSpa, equal heads": ("#17becf", "-"),
    "STA": ("#2ca02c", "-"),
    "diagonal": ("#d62728", "-"),
    "multi-diagonal": ("#ff7f0e", "-"),
    "stripe": ("#8c564b", "-"),
    "best blocks, raster order": ("#222222", "-"),
    "best blocks, tile order": ("#222222", "--"),
    "best single entries": ("#888888", "-."),
}
USABLE = ("AdaSpa, first search's masks", "STA", "diagonal", "multi-diagonal", "stripe")
"""What a run can use between searches, among which the best of each head is looked for."""

MATRICES = {
    "lse_shift": "mean |change of LSE|",
    "lse_uneven": "its unevenness within a block (rms)",
    "overlap": "overlap of masks (IoU)",
    "recall_loss": "recall lost with the other's mask",
}


def draw_all(rows: list[dict], folder: Path) -> Iterator[Path]:
    """Writes a picture of each part that has records; of repeated measurements the newest counts."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict]] = {}
    for row in rows:
        parts.setdefault(row["measured"]["part"], []).append(row["measured"])
    if quality := parts.get("quality"):
        yield draw_quality(quality, folder / "adaspa_quality.png")
    if recall := parts.get("recall"):
        methods = {m["method"]: m for m in recall}
        yield draw_recall(methods, folder / "adaspa_recall.png")
        yield draw_best(methods, folder / "adaspa_best.png")
    if stability := parts.get("stability"):
        yield draw_stability(stability, folder / "adaspa_stability.png")


def draw_quality(rows: list[dict], path: Path) -> Path:
    """Each variant's PSNR less the paper's setting on the same clip, clips as dots and their mean as a bar."""
    plt = _pyplot()
    densities = sorted({m["asked_density"] for m in rows}, reverse=True)
    figure, axes = plt.subplots(
        1, len(densities), figsize=(5.2 * len(densities) + 1.4, 3.9), layout="constrained",
        sharey=True, squeeze=False,
    )  # fmt: skip
    for ax, density in zip(axes[0], densities, strict=True):
        found = {m["variant"]: m for m in rows if m["asked_density"] == density}
        base, *others = found.values()
        for y, m in enumerate(others):
            off = np.subtract(m["psnr_by_clip_db"], base["psnr_by_clip_db"])
            ax.barh(y, off.mean(), height=0.55, color="#9ec5e8")
            ax.plot(off, np.full(len(off), y), "o", color="#1f4e79", markersize=4)
        ax.axvline(0, color="#222222", linewidth=1)
        ax.set_yticks(range(len(others)), [m["variant"] for m in others])
        ax.invert_yaxis()
        ax.grid(axis="x", alpha=0.3)
        ax.set(
            xlabel="PSNR less that of the paper's setting, dB",
            title=f"density {density}: {base['variant'].removeprefix('paper: ')} gives {base['psnr_db']:.1f} dB",
        )
    figure.suptitle("AdaSpa on the Tiny model: bars are means, dots are clips", fontsize=11)
    return _save(figure, path)


def draw_recall(methods: dict[str, dict], path: Path) -> Path:
    """Mean recall over heads against the achieved density; bands hold the middle 80 % of heads."""
    plt = _pyplot()
    figure, ax = plt.subplots(figsize=(8.2, 5.2), layout="constrained")
    ends = []
    for name, (colour, dash) in LINES.items():
        if name not in methods:
            continue
        m = methods[name]
        x, y = np.asarray(m["density_mean"]), np.asarray(m["recall_mean"])
        ax.plot(x, y, dash, color=colour, marker="o", markersize=3)
        if name in ("AdaSpa", "STA", "stripe"):
            heads = np.asarray(m["recall_by_layer_and_head"]).reshape(len(x), -1)
            ax.fill_between(x, *np.quantile(heads, (0.1, 0.9), axis=1), color=colour, alpha=0.1)
        ends.append([y[-1], x[-1], name, colour])
    _label_ends(ax, ends)
    ax.set(xlabel="density: computed / all token pairs", ylabel="recall: attention mass kept")
    ax.set_title("Tiny model, mean of all layers and heads; bands: the middle 80 % of heads")
    ax.grid(alpha=0.3)
    return _save(figure, path)


def _label_ends(ax, ends):
    """Names right of the lines, moved apart."""
    low, gap = -np.inf, 0.036
    for y, x, name, colour in sorted(ends):
        low = max(y, low + gap)
        ax.annotate(
            name, (x, y), (0.53, low), fontsize=8.5, color=colour, va="center",
            arrowprops=dict(arrowstyle="-", color=colour, alpha=0.4, linewidth=0.7),
        )  # fmt: skip
    ax.set_xlim(0, 0.74)
    ax.set_ylim(0, max(1.03, low + 0.03))


def draw_best(methods: dict[str, dict], path: Path, asked: float = 0.2) -> Path:
    """Which usable method keeps most of each head at one density, with its recall."""
    plt = _pyplot()
    names = [name for name in USABLE if name in methods]
    table = np.stack(
        [
            np.asarray(methods[n]["recall_by_layer_and_head"])[methods[n]["asked_density"].index(asked)]
            for n in names
        ]
    )  # fmt: skip
    best = table.argmax(0)
    colours = [LINES[name][0] for name in names]
    figure, ax = plt.subplots(figsize=(6.6, 4.4), layout="constrained")
    for layer, head in np.ndindex(*best.shape):
        winner = best[layer, head]
        ax.add_patch(
            plt.Rectangle((head - 0.5, layer - 0.5), 1, 1, color=colours[winner], alpha=0.35)
        )
        ax.text(
            head, layer, f"{names[winner].partition(',')[0]}\n{table[winner, layer, head]:.2f}",
            ha="center", va="center", fontsize=9,
        )  # fmt: skip
    layers, heads = best.shape
    ax.set(xlim=(-0.5, heads - 0.5), ylim=(layers - 0.5, -0.5), xlabel="head", ylabel="layer")
    ax.set_xticks(range(heads))
    ax.set_yticks(range(layers))
    ax.set_title(f"best at density {asked} and its recall\n(AdaSpa with its first search's masks)")
    return _save(figure, path)


def draw_stability(rows: list[dict], path: Path) -> Path:
    """The matrices over steps, and what masks from elsewhere cost."""
    plt = _pyplot()
    over = {m["over"]: m for m in rows if m["over"] != "elsewhere"}
    figure, axes = plt.subplots(2, 3, figsize=(12.5, 7.2), layout="constrained")
    for ax, (name, title) in zip(axes.flat, MATRICES.items(), strict=False):
        values = np.asarray(over["steps"][name])
        edge = len(values) + 0.5
        image = ax.imshow(values, extent=(0.5, edge, edge, 0.5), cmap="viridis")
        ax.set(title=title, xlabel="used at step", ylabel="searched at step")
        figure.colorbar(image, ax=ax, shrink=0.85)
    elsewhere = {m["mask_from"]: m for m in rows if m["over"] == "elsewhere"}
    ax = axes[1, 1]
    for y, m in enumerate(elsewhere.values()):
        ax.barh(y, m["recall_loss"], height=0.6, color="#9ec5e8")
        ax.text(m["recall_loss"], y, f" {m['recall_loss']:.3f}", va="center", fontsize=8)
    ax.set_yticks(range(len(elsewhere)), list(elsewhere), fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set(title="recall lost at the second search\nwith the mask of ...")
    cache, ax = over["LSE cache"], axes[1, 2]
    steps = cache["first_step"] + np.arange(len(cache["recall_loss_by_step"]))
    for key, label, colour in (
        ("recall_loss_worst_head_by_step", "worst head", "#d62728"),
        ("recall_loss_by_step", "mean", "#1f77b4"),
    ):
        ax.plot(steps, cache[key], color=colour)
        ax.annotate(label, (steps[-1], cache[key][-1]), color=colour, ha="right", va="bottom")
    ax.set(title="recall lost by searching with the\nfirst search's LSE", xlabel="step")
    ax.grid(alpha=0.3)
    return _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=96)
    _pyplot().close(figure)
    return path
