"""The text of a method's page, and of the table of all methods, from docstrings and records alone."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from experiments import record
from experiments.methods.docstrings import arguments_table, arxiv_of, call, markdown, parse
from experiments.methods.reads import GRID
from experiments.methods.verification import UP, verified
from experiments.provenance import newest, provenance
from experiments.quality.printed_tables import FORMATS, shown
from experiments.quality.statistics import on_common_clips, points_of
from sparsevdit_jax import AttentionPattern, StepSchedule, VideoGrid
from sparsevdit_jax.method import Method
from sparsevdit_jax.presets import METHODS

PAGES = record.ROOT / "experiments" / "methods" / "pages"
FULL = VideoGrid(21, 45, 80)
"""Wan's latent grid of 81 frames of 720 x 1280."""
HEADS, LAYERS, STEPS = 12, 30, 50

SMALLER: dict[str, dict[str, Any]] = {
    "sta": dict(tile=(2, 4, 4), window=(3, 3, 3)),
    "lvsa": dict(window=1, reference=4),
    "nabla": dict(mass=0.6, window=(3, 1, 1), cell=(4, 4)),
    "draft": dict(cell=(4, 8)),
    "lite-attention": dict(block_q=32, block_kv=32, threshold=-2.0),
    "skip-softmax": dict(block_q=32, block_kv=32, threshold=0.3),
    "jenga": dict(block=32),
    "radial": dict(block=16, split=16, decay=0.25),
    "re-ttention": dict(block=32),
    "svg": dict(block=32, unit=32),
    "ssta": dict(tile=(2, 4, 4), window=(1, 3, 3), topk=6),
}
"""Fields of the patterns that would keep nearly everything of the small grid that pictures show."""


def patterns_of(method: Method, grid: VideoGrid) -> list[AttentionPattern]:
    """The distinct patterns of its heads and layers."""
    found: dict[AttentionPattern, None] = {}
    for layer in range(LAYERS):
        found |= dict.fromkeys(method.pattern(grid, HEADS, layer).at_step(0, HEADS))
    return list(found)


def drawn(method: Method) -> list[AttentionPattern]:
    """The patterns of its picture."""
    fields = SMALLER.get(method.name, {})
    found: list[Any] = patterns_of(method, GRID)
    return [dataclasses.replace(p, **fields) for p in found]


def kinds_of(method: Method) -> list[type]:
    """The classes of its patterns."""
    return list(dict.fromkeys(type(p) for p in patterns_of(method, GRID)))


def summary(method: Method) -> str:
    """What it does, in one sentence."""
    kinds = kinds_of(method)
    if len(kinds) == 1:
        return markdown(parse(kinds[0].__doc__ or "").summary)
    names = [f"`{kind.__name__}`" for kind in kinds]
    return f"Heads take turns with {', '.join(names[:-1])} and {names[-1]}."


def paper(method: Method) -> str:
    """A link to its paper, or a dash."""
    texts = [method.source]
    for kind in kinds_of(method):
        texts += [kind.__doc__ or "", inspect.getmodule(kind).__doc__ or ""]  # pyrefly: ignore
    number = arxiv_of(*texts)
    return f"[{number}](https://arxiv.org/abs/{number})" if number else "–"


def facts(folder: Path = record.RESULTS) -> dict[str, dict[str, Any]]:
    """What `python -m experiments.methods` found of each method when it drew it.

    Raises:
      ValueError: it has not drawn one.
    """
    rows = newest(record.read("methods", folder=folder), ("method",))
    found = {row["measured"]["method"]: row["measured"] for row in rows}
    if absent := [name for name in METHODS if name not in found]:
        names = " ".join(absent)
        raise ValueError(f"no record of {names}: run python -m experiments.methods --only {names}")
    return found


def chooses(found: dict[str, Any]) -> str:
    """How blocks are chosen, in a few words."""
    return "from q and k" if found["online"] else "by position"


def weights(method: Method) -> str:
    """Whether models are trained for it."""
    return "trained for it" if method.trained else "as they are"


def index(folder: Path = record.RESULTS) -> str:
    """The table of all methods."""
    known = facts(folder)
    lines = [
        "| method | `--attention` | what it does | paper | chooses blocks | weights of the model |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        link = f"[{method.title}](../../experiments/methods/pages/{name}.md)"
        cells = (
            link,
            f"`{name}`",
            summary(method),
            paper(method),
            chooses(known[name]),
            weights(method),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(method: Method, folder: Path = record.RESULTS) -> str:
    """The whole page of a method."""
    found = facts(folder)[method.name]
    kinds = kinds_of(method)
    several = len(kinds) > 1
    docs = [parse(kind.__doc__ or "") for kind in kinds]
    rules, differs = [], []
    for kind, doc in zip(kinds, docs, strict=True):
        head = f"**`{kind.__name__}`.** " if several else ""
        rule = doc.rule if several or doc.rule[0] != doc.summary else doc.rule[1:]
        rules.append(head + "\n\n".join(map(markdown, rule)))
        differs += [head + "\n\n".join(map(markdown, doc.differs))] if doc.differs else []
    source = "\n\n".join(markdown(part) for doc in docs for part in doc.source)
    tables = [
        f"of [`sparsevdit_jax.patterns.{kind.__name__}`]({UP}{_file(kind)}):\n\n{arguments_table(kind)}"
        for kind in kinds
    ]
    return "\n\n".join(
        [
            f"# {method.title}",
            summary(method),
            f"- Paper: {paper(method)}. Settings here: {markdown(method.source.rstrip('.'))}.",
            f"- It chooses blocks {chooses(found)}. It is for models "
            + ("that were trained for it." if method.trained else "as they are, without training."),
            f"- Use: `--attention {method.name}`, or `attention_for(\"{method.name}\", grid, ...)`.",
            "## How it chooses blocks",
            *rules,
            *([source] if source else []),
            f"![The mask of one head, and the keys that one query reads in each frame]({method.name}.png)",
            _caption(method, found),
            "## Arguments",
            *tables,
            "## Published settings",
            settings(method),
            "## Where it differs from its source",
            *(differs or ["Its docstring names no difference."]),
            "## Cost and closeness",
            closeness(method, folder),
            "## How it was verified",
            verified(kinds, found, folder),
        ]
    )  # fmt: skip


def _file(kind: type) -> str:
    return f"{kind.__module__.replace('.', '/')}.py"


def _caption(method: Method, found: dict[str, Any]) -> str:
    size = (
        f"{GRID.frames} frames of {GRID.height} x {GRID.width} tokens and {GRID.text_len} of text"
    )
    calls = ", ".join(f"`{call(p)}`" for p in drawn(method))
    if found["has_plan"]:
        text = (
            "Left: blocks of queries downwards, of keys to the right, in the order in which the pattern "
            "lays them out, text last; blue pairs are computed. Right: the tokens of each frame that one "
            "query (orange) reads."
        )
    else:
        text = (
            "No mask of blocks alone says what it computes. Left: the weights that queries give to keys in "
            "effect, means over 16 x 16 tokens. Right: the weights of one query (orange) in each frame. Both on a "
            "logarithmic scale."
        )
    return f"{text} Drawn on {size}, whose q and k are a smooth scene that moves, with {calls}."


def settings(method: Method) -> str:
    """Patterns and dense steps and layers on a full-size grid, for each family of models that differs."""
    lines = [
        "| model | pattern | dense steps and searches | dense layers |",
        "|---|---|---|---|",
    ]
    for model in (None, *method.models):
        own = method.of(model)
        calls = "; ".join(f"`{call(p)}`" for p in patterns_of(own, FULL)).replace("|", r"\|")
        layers = own.dense_layers(LAYERS)
        shown_layers = ", ".join(map(str, layers)) if layers else "none"
        name = model or ("others" if method.models else "all")
        lines.append(f"| {name} | {calls} | {steps(own.schedule(STEPS))} | {shown_layers} |")
    return (
        "\n".join(lines)
        + f"\n\nOn a latent grid of {FULL.frames} x {FULL.height} x {FULL.width}, for {STEPS} steps and "
        f"{LAYERS} layers; steps and layers count from 0."
    )


def steps(schedule: StepSchedule) -> str:
    """Which steps are dense, which search, and the densities by step."""
    parts = []
    if schedule.dense_steps:
        parts.append(f"the first {schedule.dense_steps} dense")
    if schedule.dense_last_steps:
        parts.append(f"the last {schedule.dense_last_steps} dense")
    if schedule.search_steps:
        places = [str(step - schedule.first_step) for step in schedule.search_steps]
        parts.append(f"searches at {', '.join(places)}")
    if schedule.density:
        first, last = schedule.density[0], schedule.density[-1]
        parts.append(f"density by step, from {first:g} to {last:g}")
    return "; ".join(parts) or "none"


def closeness(method: Method, folder: Path = record.RESULTS) -> str:
    """Its settings in the sweep on the tiny model."""
    titles = {other.title for other in METHODS.values()} - {method.title}

    def own(family: str) -> bool:
        return family == method.title or (
            family.startswith(f"{method.title} ") and family not in titles
        )

    every = record.read("quality", folder=folder)
    rows = [r for r in every if own(r["measured"]["family"])]
    if not rows:
        return "Nothing is recorded yet of this method on the tiny model. `python -m experiments.quality` records it."
    lines = [
        "| setting | density | of the run | PSNR, dB | SSIM | LPIPS |",
        "|---|---|---|---|---|---|",
    ]
    points = [p for p in on_common_clips(points_of(every)) if own(p.family)]
    points.sort(key=lambda p: (p.family, p.density))
    for p in points:
        family = p.family.removeprefix(method.title).strip()
        cells = [f"{family} {p.label}".strip(), f"{p.density:.3f}", f"{p.run_density:.3f}"]
        for metric, (_, digits) in FORMATS.items():
            cells.append(shown(p.interval(metric), digits) if p.values[metric] else "")
        lines.append(f"| {' | '.join(cells)} |")
    clips = max(len(p.values["psnr_db"]) for p in points)
    return "\n".join(lines) + (
        f"\n\nThe tiny model on {clips} clips, beside dense attention from the same noise: means and 95 % intervals. "
        "Density is that of the sparse steps, and of the run the mean of all its steps, dense ones too: the share of "
        f"dense attention that is computed. [All methods]({UP}experiments/quality/README.md). {provenance(rows)}."
    )
