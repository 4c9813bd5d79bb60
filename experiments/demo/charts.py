"""Quality against density as inline SVG, and the markers that stand for a method everywhere.

Colours are classes (`s0`, `s1`, ...) that the style sheet sets for light and dark; shapes differ
as well, so that no chart rests on colour alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.demo.labels import MARK, Box, nice_ticks, place_labels, text_size
from experiments.html.markup import Safe, element, finite, join, number, percent

COLOURS = 6
WIDTH, HEIGHT = 680, 430
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 16, 52


def series(methods: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, bool]]:
    """Method key -> (number of its colour and shape, hollow); a variant shares its base's number.

    A variant's key starts with the key of its base and a hyphen: `sta-narrow`, `sta`. The number of
    dense is -1.
    """
    found: dict[str, tuple[int, bool]] = {}
    bases = [m["key"] for m in methods if not m.get("variant")]
    for method in methods:
        key = method["key"]
        base = [b for b in bases if method.get("variant") and key.startswith(f"{b}-")]
        if key == "dense":
            found[key] = (-1, False)
        elif base and max(base, key=len) in found:
            found[key] = (found[max(base, key=len)][0], True)
        else:
            taken = {index for index, _ in found.values() if index >= 0}
            found[key] = (len(taken), bool(method.get("variant")))
    return found


def marker(x: float, y: float, style: tuple[int, bool], radius: float = MARK) -> Safe:
    """A shape of its own for every series."""
    index, hollow = style
    classes = f"mark {colour(index)}{' hollow' if hollow else ''}"
    sides = (0, 4, 3, 4.5, 3.5, 5)[index % 6] if index >= 0 else 0  # .5: turned by half a side
    if not sides:
        return element("circle", class_=classes, cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}")
    count = int(sides)
    turn = -math.pi / 2 + (math.pi / count if (sides == 4 or sides == 3.5) else 0)
    reach = radius * (1.3 if count < 5 else 1.2)
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    points = " ".join(
        f"{x + reach * math.cos(a):.1f},{y + reach * math.sin(a):.1f}" for a in angles
    )
    return element("polygon", class_=classes, points=points)


def key_mark(style: tuple[int, bool]) -> Safe:
    """The marker alone, beside a name in text."""
    shape = marker(9, 9, style, 5.5)
    return element(
        "svg", shape, class_="key", viewBox="0 0 18 18", width=18, height=18, aria_hidden="true"
    )


def colour(index: int) -> str:
    """Class of a series' colour."""
    return "reference" if index < 0 else f"s{index % COLOURS}"


def scatter(
    methods: Sequence[Mapping[str, Any]], field: str, title: str, *, best: float | None = None
) -> Safe:
    """Quality against density, one labelled marker per sparse method.

    Args:
      methods: with "key", "label", "density" and `field`; those without a number are left out.
      field: "psnr_db" in dB, or a share such as "ssim".
      title: name of the vertical axis.
      best: value of dense attention, drawn as a dashed line.
    """
    styles = series(methods)
    drawn = [
        (m, x, y)
        for m in methods
        if m["key"] != "dense"
        and (x := finite(m.get("density"))) is not None
        and (y := finite(m.get(field))) is not None
    ]
    if not drawn:
        return element("p", f"No method has both a density and {title}.", class_="quiet")
    values = [y for *_, y in drawn] + ([] if best is None else [best])
    # Room below the lowest and above the highest point, for the labels.
    span = max(values) - min(values) or abs(values[0]) or 1.0
    y_ticks = nice_ticks(
        min(values) - 0.12 * span, max(values) + (0.12 if best is None else 0.06) * span
    )
    if best is not None:
        y_ticks = [t for t in y_ticks if t <= best + 1e-9]
    x_ticks = nice_ticks(0.0, max(1.22 * max(x for _, x, _ in drawn), 0.05), 6)
    x_ticks = [t for t in x_ticks if t <= 1 + 1e-9]
    low, high = y_ticks[0], max(y_ticks[-1], max(values) + 0.04 * span)
    right = max(x_ticks[-1], max(x for _, x, _ in drawn))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / right,
            TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low),
        )

    points = [place(x, y) for _, x, y in drawn]
    bounds = (LEFT + 4, TOP + 2, WIDTH - 2, HEIGHT - BOTTOM - 3)
    boxes = place_labels(points, [text_size(m["label"]) for m, *_ in drawn], bounds)
    shapes = [_grid(x_ticks, y_ticks, place, title, field)]
    if best is not None:
        level = place(0, best)[1]
        shapes.append(element("path", class_="best", d=f"M{LEFT},{level:.1f}H{WIDTH - RIGHT}"))
        shapes.append(element("text", "dense", class_="tick", x=LEFT + 6, y=f"{level - 5:.1f}"))
    for index in range(COLOURS):
        family = sorted(
            p for (m, *_), p in zip(drawn, points, strict=True) if styles[m["key"]][0] == index
        )
        if len(family) > 1:
            path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in family)
            shapes.append(element("path", class_=f"family {colour(index)}", d=path))
    for (method, x, y), point, box in zip(drawn, points, boxes, strict=True):
        text = (
            f"{method['label']}: {percent(x, 1)} of the block pairs, {title} {value_text(field, y)}"
        )
        shapes.append(
            element(
                "g",
                element("title", text),
                _leader(point, box),
                marker(*point, styles[method["key"]]),
                _label(method["label"], point, box),
            )
        )
    name = f"{title} against density for {len(drawn)} methods; the numbers are in the table"
    return element(
        "svg", *shapes, class_="chart", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=name
    )


def value_text(field: str, value: float, digits: int | None = None) -> str:
    """A number with the unit of its field."""
    if field == "recall":
        return percent(value, 1 if digits is None else digits)
    return f"{number(value, 1)} dB" if field == "psnr_db" else number(value, 3)


def _label(text: str, point: tuple[float, float], box: Box) -> Safe:
    """The text of a label, held at the side that faces its marker: widths are only estimates."""
    side, x = "middle", (box[0] + box[2]) / 2
    if point[0] <= box[0]:
        side, x = "start", box[0] + 2
    elif point[0] >= box[2]:
        side, x = "end", box[2] - 2
    return element("text", text, class_=f"label {side}", x=f"{x:.1f}", y=f"{box[3] - 4:.1f}")


def _leader(point: tuple[float, float], box: Box) -> Safe | None:
    """A thin line to a label that is not right beside its marker."""
    x = min(max(point[0], box[0]), box[2])
    y = min(max(point[1], box[1]), box[3])
    if math.hypot(x - point[0], y - point[1]) < 2.2 * MARK:
        return None
    return element("path", class_="leader", d=f"M{point[0]:.1f},{point[1]:.1f}L{x:.1f},{y:.1f}")


def _grid(x_ticks, y_ticks, place, title: str, field: str) -> Safe:
    """Grid lines, tick labels and axis titles."""
    foot, parts = HEIGHT - BOTTOM, []
    for tick in y_ticks:
        y = place(0, tick)[1]
        if not TOP <= y <= foot + 1:
            continue
        text = percent(tick, 0) if field == "recall" else f"{tick:g}"
        parts.append(element("path", class_="grid", d=f"M{LEFT},{y:.1f}H{WIDTH - RIGHT}"))
        parts.append(element("text", text, class_="tick end", x=LEFT - 8, y=f"{y + 4:.1f}"))
    for tick in x_ticks:
        x = place(tick, y_ticks[0])[0]
        parts.append(element("path", class_="axis", d=f"M{x:.1f},{foot}v5"))
        parts.append(
            element("text", percent(tick, 0), class_="tick middle", x=f"{x:.1f}", y=foot + 20)
        )
    parts.append(element("path", class_="axis", d=f"M{LEFT},{foot}H{WIDTH - RIGHT}"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        element(
            "text",
            "block pairs computed in a sparse step",
            class_="title middle",
            x=middle,
            y=HEIGHT - 8,
        )
    )
    parts.append(
        element(
            "text",
            title,
            class_="title middle",
            transform=f"translate(14 {(TOP + foot) / 2:.0f}) rotate(-90)",
        )
    )
    return join(parts)
