"""The training loss as inline SVG, on a logarithmic axis."""

import math
from collections.abc import Sequence

from experiments.demo.labels import nice_ticks
from experiments.html.markup import Safe, element, finite, number

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44


def loss_curve(points: object) -> Safe | None:
    """A line through (step, loss) points; None where fewer than two of them can be drawn."""
    drawn = _positive(points)
    if len(drawn) < 2:
        return None
    last = max(step for step, _ in drawn)
    logs = [math.log10(loss) for _, loss in drawn]
    low, high = min(logs), max(max(logs), min(logs) + 0.1)

    def place(step: float, log: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * step / last,
            TOP + (HEIGHT - TOP - BOTTOM) * (high - log) / (high - low),
        )

    foot, parts = HEIGHT - BOTTOM, []
    for tick in _log_ticks(low, high):
        y = place(0, math.log10(tick))[1]
        parts.append(element("path", class_="grid", d=f"M{LEFT},{y:.1f}H{WIDTH - RIGHT}"))
        label = element("text", f"{tick:g}", class_="tick end", x=LEFT - 8, y=f"{y + 4:.1f}")
        parts.append(label)
    for tick in nice_ticks(0, last, 4):
        if tick > last:
            continue
        x, text = place(tick, low)[0], number(tick, 0)
        parts.append(element("path", class_="axis", d=f"M{x:.1f},{foot}v5"))
        parts.append(element("text", text, class_="tick middle", x=f"{x:.1f}", y=foot + 19))
    parts.append(element("path", class_="axis", d=f"M{LEFT},{foot}H{WIDTH - RIGHT}"))
    title = dict(class_="title middle", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6)
    parts.append(element("text", "training step", **title))
    places = [place(step, log) for (step, _), log in zip(drawn, logs, strict=True)]
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(element("path", class_="line", d=path))
    name = f"Training loss from {drawn[0][1]:.3g} to {drawn[-1][1]:.3g} in {last:,.0f} steps"
    box = dict(viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=name)
    return element("svg", parts, class_="chart", **box)


def _positive(points: object) -> list[tuple[float, float]]:
    """The points that are pairs of numbers and have a place on a logarithmic axis."""
    found = []
    for point in points if isinstance(points, Sequence) else ():
        if isinstance(point, Sequence) and len(point) == 2:
            step, loss = finite(point[0]), finite(point[1])
            if step is not None and loss is not None and step > 0 and loss > 0:
                found.append((step, loss))
    return found


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten: 1, 2 and 5 times a power, or finer where those are few."""
    for digits in ((1, 2, 5), range(1, 10), [i / 10 for i in range(10, 100)]):
        ticks = [
            digit * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit * 10.0**power) <= high
        ]
        if len(ticks) >= 3:
            break
    return ticks[:: 1 + len(ticks) // 8]
