"""`index.html` of the demo: one folder that opens offline, with everything the run measured."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.demo import about, charts, panels, rounds
from experiments.demo.files import Files
from experiments.demo.inside import inside_tabs
from experiments.html.markup import (
    NOTHING,
    Safe,
    element,
    finite,
    percent,
    plain,
    script_json,
    style,
    times,
)

HERE = Path(__file__).parent
CHARTS = (
    ("psnr_db", "PSNR against dense, dB", "PSNR", None),
    ("ssim", "SSIM against dense", "SSIM", 1.0),
    ("recall", "attention mass kept", "recall", 1.0),
)


def write_page(folder: Path, results: Mapping[str, Any]) -> Path:
    """Writes `folder/index.html` and returns its path.

    Args:
      folder: holds the clips and pictures that `results` names.
      results: what `results.json` holds: "methods" is needed, each with "key" and "label"; every
        other field may be missing, and a file that does not exist is left out.

    Raises:
      ValueError: no methods, one without key or label, a key twice, or a file name that is not
        plain.
    """
    results = plain(results)
    methods = results.get("methods") or []
    _check(methods)
    link = Files(folder)
    settings = results.get("settings") or {}
    shape = tuple(settings.get("video") or (1, 1, 1))[-2:]
    parts = {
        "title": element("title", results.get("title") or "Sparse attention in a video model"),
        "style": style(HERE / "page.css"),
        "script": Safe((HERE / "page.js").read_text(encoding="utf-8")),
        "results": script_json(results),
        "headline": headline(results.get("title"), methods, settings),
        "clips": panels.clip_cards(methods, link, shape),
        "comparison": panels.comparison(methods),
        "readings": panels.readings(methods),
        "charts": quality_charts(methods),
        "time": panels.time_bars(methods),
        "inside": inside_tabs(methods, results, link),
        "training": about.training(results.get("training")),
        "settings": about.settings_table(settings, results.get("environment") or {}),
        "reproduce": about.reproduce(settings, link),
        "caveats": about.caveats(results, methods),
        "glossary": about.glossary(),
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    # One pass, so that text with braces inside a part is never taken for a place to fill.
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]] or "", template)
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def headline(title: Any, methods: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Safe:
    """The title, what is compared, and the finding in one sentence and four numbers."""
    shown = closest(methods)
    digit, steps = settings.get("digit"), settings.get("steps")
    what = "One clip" if digit is None else f"One clip of a moving {digit}"
    kinds = len([m for m in methods if m["key"] != "dense"])
    intro = (
        f"{what}, denoised {f'in {steps} steps ' if steps else ''}from the same noise: once with "
        f"dense attention, and with {kinds} sparse settings."
    )
    parts = [element("h1", title or "Sparse attention in a video model"), element("p", intro)]
    if shown is not None:
        parts.append(element("p", finding(shown, methods), class_="finding"))
        tiles = (
            (percent(shown.get("density")), "of the block pairs computed, per sparse step"),
            (percent(shown.get("recall")), "of the attention mass kept"),
            (panels.decibel(shown.get("psnr_db")), "PSNR of the clip against dense"),
            speed_tile(shown),
        )
        head = element("p", "Closest to dense: ", element("strong", shown["label"]), class_="who")
        body = [element("div", element("b", a), element("span", b)) for a, b in tiles]
        parts.append(element("div", head, body, class_="tiles"))
    return element("header", parts)


def closest(methods: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The sparse method, no variant, with the highest PSNR; by recall if no PSNR was measured."""
    sparse = [m for m in methods if m["key"] != "dense" and not m.get("variant")]
    for field in ("psnr_db", "recall"):
        known = [m for m in sparse if finite(m.get(field)) is not None or m.get(field) == math.inf]
        if known:
            return max(known, key=lambda m: m[field])
    return None


def speed_tile(shown: Mapping[str, Any]) -> tuple[str, str]:
    """(the speed-up of a step or a word in its place, what that is)."""
    step, run = (rounds.spread_of(shown, f"speedup_{part}") for part in ("step", "run"))
    if step is None:
        return NOTHING, "speed against a dense step: not measured"
    if word := rounds.word_for(step, speedup=True):
        return word, f"a sparse step against dense: {rounds.READING[word]}"
    text = f"as fast as a dense step ({times(step.low)} to {times(step.high)})"
    if run is not None and rounds.word_for(run, speedup=True) is None:
        text += f"; {times(run.median)} for the whole run"
    return times(step.median), text


def speed_claim(what: str, spread: rounds.Spread) -> str:
    """What the rounds allow to say of the speed of `what`."""
    said = rounds.verdict(spread)
    if said == "number":
        gain = "" if spread.low > 1 else ", so here it gains no time"
        return f"{what} is {times(spread.median)} as fast as dense{gain}"
    if said == "unclear":
        return f"whether {what} is faster than dense cannot be said from these rounds"
    return f"{what} is {said} than dense, by how much cannot be said from these rounds"


def finding(shown: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers say, good or bad.

    Args:
      shown: the method that the page opens with.
      methods: all of them.
    """
    claims = []
    if finite(shown.get("density")) is not None:
        claims.append(f"computes {percent(shown['density'])} of the block pairs")
    if finite(shown.get("recall")) is not None:
        claims.append(f"keeps {percent(shown['recall'])} of the attention mass")
    text = f"{shown['label']} {' and '.join(claims) or 'comes closest to dense'}"
    for part, what in (("step", "a sparse step"), ("run", "the whole run")):
        if (spread := rounds.spread_of(shown, f"speedup_{part}")) is not None:
            text += f"; {speed_claim(what, spread)}"
    text += "."
    others = [m for m in methods if m["key"] != "dense" and not m.get("variant")]
    scores = [m for m in others if finite(m.get("psnr_db")) is not None]
    if len(scores) > 1 and shown.get("psnr_db") is not None:
        worst = min(scores, key=lambda m: m["psnr_db"])
        best, last = panels.decibel(shown["psnr_db"]), panels.decibel(worst["psnr_db"])
        text += (
            f" Of the {len(others)} methods its clip is closest to the dense one ({best} PSNR); "
            f"{worst['label']} is farthest ({last})."
        )
    return text


def quality_charts(methods: Sequence[Mapping[str, Any]]) -> Safe:
    """The scatter chart for each quality, with buttons that show one at a time."""
    buttons, drawings = [], []
    for number, (field, title, short, best) in enumerate(CHARTS):
        pressed = "true" if number == 0 else "false"
        buttons.append(
            element("button", short, type="button", data_show=field, aria_pressed=pressed)
        )
        chart = charts.scatter(methods, field, title, best=best)
        drawings.append(element("div", chart, data_chart=field))
    group = element("div", buttons, class_="choice", role="group", aria_label="Quality shown")
    return element("div", group, drawings, data_choice=True)


def _check(methods: Sequence[Mapping[str, Any]]) -> None:
    if not methods:
        raise ValueError("results['methods'] is empty; the page needs at least one method")
    keys = [m.get("key") for m in methods]
    bad = [m for m in methods if not (isinstance(m.get("key"), str) and m.get("label"))]
    if bad:
        raise ValueError(f"{bad[0]!r} has no 'key' and 'label'; every method needs both as text")
    if len(set(keys)) < len(keys):
        raise ValueError(f"method keys {keys} are not distinct; give every method its own")
