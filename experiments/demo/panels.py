"""Parts of the page that are tables and cards: clips, comparison, bars of time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.demo.charts import colour, key_mark, series
from experiments.demo.files import Files
from experiments.demo.rounds import READING, spread_of, word_for
from experiments.html.markup import (
    NOTHING,
    Safe,
    element,
    finite,
    milliseconds,
    number,
    percent,
    times,
)


def clip_cards(methods: Sequence[Mapping[str, Any]], link: Files, shape: tuple[int, int]) -> Safe:
    """A card per method with its clip and, stacked on it, its difference to dense."""
    styles, cards = series(methods), []
    for method in methods:
        label, dense = method["label"], method["key"] == "dense"
        clip = link(method.get("video")) or link(method.get("gif"))
        change = None if dense else link(method.get("difference"))
        shown = [
            _moving(clip, "clip", f"{label}: generated clip"),
            _moving(change, "difference", f"{label}: difference to dense", hidden=True),
            None if clip else element("p", "no clip was written", class_="quiet"),
        ]
        facts = (
            [element("b", "reference")]
            if dense
            else [
                element("b", decibel(method.get("psnr_db")), title="PSNR against the dense clip"),
                element("span", f"{percent(method.get('density'))} of pairs"),
            ]
        )
        kind = f"clip{' dense' if dense else ''}{' variant' if method.get('variant') else ''}"
        cards.append(
            element(
                "figure",
                element("div", shown, class_="screen", style=f"aspect-ratio:{shape[1]}/{shape[0]}"),
                element(
                    "figcaption",
                    element("span", key_mark(styles[method["key"]]), element("strong", label)),
                    element("span", facts, class_="facts"),
                    element("small", method.get("note")),
                ),
                class_=kind,
            )
        )
    return element("div", cards, class_="clips")


def _moving(url: str | None, role: str, label: str, *, hidden: bool = False) -> Safe | None:
    """A video or, by its ending, an animated picture."""
    if url is None:
        return None
    if url.endswith((".gif", ".png", ".webp")):
        return element("img", src=url, alt=label, data_role=role, hidden=hidden)
    return element(
        "video",
        src=url,
        aria_label=label,
        data_role=role,
        hidden=hidden,
        muted=True,
        playsinline=True,
        preload="auto",
        controls=True,  # the script takes them away and puts one set of controls over all
    )


COLUMNS: tuple[tuple[str, tuple[tuple[str, str, Callable[[Any], str], int], ...]], ...] = (
    (
        "Block pairs computed",
        (
            ("density", "sparse step", lambda v: percent(v, 1), 0),
            ("density_run", "whole run", lambda v: percent(v, 1), 0),
        ),
    ),
    (
        "Kept of dense attention",
        (
            ("recall", "recall", lambda v: percent(v, 1), 1),
            ("output_error", "output error", lambda v: number(v, 3), -1),
        ),
    ),
    (
        "Clip against dense",
        (
            ("psnr_db", "PSNR dB", lambda v: number(v, 1), 1),
            ("ssim", "SSIM", lambda v: number(v, 3), 1),
        ),
    ),
    (
        "Time",
        (
            ("attention_ms", "attention ms", milliseconds, -1),
            ("step_ms", "step ms", milliseconds, -1),
            ("run_s", "run s", lambda v: number(v, 1), -1),
        ),
    ),
    (
        "Speed-up over dense",
        (
            ("speedup_attention", "attention", times, 1),
            ("speedup_step", "step", times, 1),
            ("speedup_run", "run", times, 1),
        ),
    ),
)
"""Groups of columns: (field, heading, format, +1 where more is better, -1 less, 0 neither)."""


def comparison(methods: Sequence[Mapping[str, Any]]) -> Safe:
    """The table of all measurements; the best sparse method (no variant) of a column is bold."""
    styles = series(methods)
    fields = [column for _, columns in COLUMNS for column in columns]
    firsts = {columns[0][0] for _, columns in COLUMNS}
    best = {field: _best(methods, field, sign) for field, _, _, sign in fields if sign}
    groups = [
        element("th", name, colspan=len(columns), scope="colgroup") for name, columns in COLUMNS
    ]
    names = [
        element("th", name, scope="col", class_="first" if field in firsts else None)
        for field, name, _, _ in fields
    ]
    body = []
    for method in methods:
        cells = []
        for field, _, text, _ in fields:
            value, word = _value(method, field)
            classes = ["first"] if field in firsts else []
            if value is not None and value == best.get(field) and not _aside(method):
                classes.append("best")
            content: Any = text(value)
            spread = spread_of(method, field)
            if word is not None:
                content = element("abbr", word, title=READING[word])
            elif spread is not None and field.startswith("speedup"):
                ends = f"{number(spread.low, 2)}–{number(spread.high, 2)}"
                content = [content, element("small", ends)]
            if field == "psnr_db" and value is None and method["key"] == "dense":
                content = element("abbr", "∞", title="identical to itself")
            if field in ("density", "recall") and value is not None:
                content = [content, element("i", style=f"--share:{min(1, max(0, value)):.3f}")]
                classes.append("meter")
            cells.append(element("td", content, class_=" ".join(classes) or None))
        head = element(
            "th",
            element(
                "span",
                key_mark(styles[method["key"]]),
                method["label"],
                element("em", "variant") if method.get("variant") else None,
                class_="who",
            ),
            element("small", schedule_text(method.get("phases"))),
            scope="row",
        )
        body.append(element("tr", head, cells, class_="variant" if method.get("variant") else None))
    return element(
        "div",
        element(
            "table",
            element(
                "thead",
                element("tr", element("th", "Method", rowspan=2, scope="col"), groups),
                element("tr", names),
            ),
            element("tbody", body),
            class_="comparison",
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label="Comparison of all methods",
    )


def _aside(method: Mapping[str, Any]) -> bool:
    """Whether a method takes no part in the contest for the best value."""
    return method["key"] == "dense" or bool(method.get("variant"))


def _value(method: Mapping[str, Any], field: str) -> tuple[float | None, str | None]:
    """The number to show under a column, None without one, and the word that takes its place, if one does."""
    spread = spread_of(method, field)
    if spread is None:
        return finite(method.get(field)), None
    word = word_for(spread, speedup=field.startswith("speedup"))
    return (spread.median, None) if word is None else (None, word)


def readings(methods: Sequence[Mapping[str, Any]]) -> Safe | None:
    """What the words mean that stand in place of numbers; None where there are none."""
    fields = [field for _, columns in COLUMNS for field, *_ in columns]
    found = {_value(method, field)[1] for method in methods for field in fields}
    said = [
        element("span", element("b", word), f": {READING[word]}. ")
        for word in READING
        if word in found
    ]
    return element("p", said, class_="quiet readings") if said else None


def _best(methods: Sequence[Mapping[str, Any]], field: str, sign: int) -> float | None:
    values = [v for m in methods if not _aside(m) and (v := _value(m, field)[0]) is not None]
    return max(values, key=lambda v: sign * v) if len(values) > 1 else None


def schedule_text(phases: Any) -> str | None:
    """`6 dense, 2 search, 22 reuse`."""
    if not isinstance(phases, Mapping):
        return None
    return ", ".join(f"{count} {name}" for name, count in phases.items() if count) or None


def decibel(value: Any) -> str:
    """PSNR with its unit."""
    text = number(value, 1)
    return text if text == NOTHING else f"{text}\u202fdB"


def time_bars(methods: Sequence[Mapping[str, Any]]) -> Safe:
    """Bars of one sparse step: attention, and the rest of the model; words where the rounds differ too much."""
    timed = {m["key"]: spread_of(m, "step_ms") for m in methods}
    if not any(timed.values()):
        return element("p", "No step was timed.", class_="quiet")
    steps = {key: s.median for key, s in timed.items() if s is not None and s.steady}
    longest, styles, rows = max(steps.values(), default=1.0), series(methods), []
    for method in methods:
        key = method["key"]
        if timed[key] is None:
            continue
        name = element("span", key_mark(styles[key]), method["label"], class_="who")
        if key not in steps:
            text = element("abbr", "unsteady", title=READING["unsteady"])
            rows.append(element("div", name, element("span", text, class_="much")))
            continue
        step, attention = steps[key], spread_of(method, "attention_ms")
        split = min(attention.median, step) if attention is not None and attention.steady else None
        bar = [
            element(
                "i",
                class_=f"part {colour(styles[key][0])}",
                style=f"width:{100 * (split or 0) / longest:.2f}%",
            ),
            element(
                "i", class_="part rest", style=f"width:{100 * (step - (split or 0)) / longest:.2f}%"
            ),
        ]
        text = f"{milliseconds(step)} ms" + (
            "" if split is None else f", attention {milliseconds(split)}"
        )
        much = element("span", text, class_="much")
        rows.append(element("div", name, much, element("span", bar, class_="bar")))
    return element("div", rows, class_="bars")
