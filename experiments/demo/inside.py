"""The part of the page on each method's inside: heat maps of heads, mask pictures, attention maps, frames."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.demo import charts
from experiments.demo.files import Files
from experiments.html.markup import Safe, element, finite, join, percent

GROUPS = {"masks": "Block masks", "attention": "Attention maps"}


def inside_tabs(
    methods: Sequence[Mapping[str, Any]], results: Mapping[str, Any], link: Files
) -> Safe:
    """Tabs, one per method: heat maps of its heads, mask pictures, attention maps, frames."""
    heads = results.get("heads") or {}
    pictures = [p for p in results.get("pictures") or () if link(p.get("file"))]
    limits = heat_limits(heads)
    styles = charts.series(methods)
    known = {m["key"] for m in methods}
    tabs, bodies = [], []
    for method in methods:
        key = method["key"]
        mine = [p for p in pictures if p.get("method") == key]
        content = [
            _heat_maps(heads.get(key), limits),
            *_galleries(mine, link),
            _frames(method, link),
        ]
        if not any(content):
            continue
        tabs.append((f"tab-{len(tabs)}", join([charts.key_mark(styles[key]), method["label"]])))
        bodies.append([element("p", method.get("note"), class_="note"), *content])
    shared = _galleries([p for p in pictures if p.get("method") not in known], link)
    if shared:
        tabs.append((f"tab-{len(tabs)}", Safe("All methods")))
        bodies.append(shared)
    if not tabs:
        return element("p", "This run drew no pictures.", class_="quiet")
    row = [
        element("button", name, type="button", role="tab", id=tab, aria_controls=f"{tab}-panel")
        for tab, name in tabs
    ]
    sheets = [
        element(
            "div", body, role="tabpanel", id=f"{tab}-panel", aria_labelledby=tab, class_="panel"
        )
        for (tab, _), body in zip(tabs, bodies, strict=True)
    ]
    bar = element("div", row, role="tablist", class_="tabs", aria_label="Method")
    return element("div", bar, sheets, data_tabs=True)


def heat_limits(heads: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """One scale per quantity over all sparse methods, so that their maps can be compared."""
    limits = {}
    for field in ("density", "recall"):
        values = [
            value
            for key, maps in heads.items()
            if key != "dense"
            for row in (maps or {}).get(field) or ()
            for raw in row
            if (value := finite(raw)) is not None
        ]
        low = int(20 * min(values, default=0)) / 20 if field == "recall" else 0.0
        high = 1.0 if field == "recall" else -(-20 * max(values, default=1) // 1) / 20
        limits[field] = (low, max(high, low + 0.05))
    return limits


def _heat_maps(maps: Mapping[str, Any] | None, limits: Mapping[str, tuple[float, float]]) -> Any:
    """Density and recall of every head side by side; None without numbers."""
    names = {"density": "Density", "recall": "Recall"}
    found = [
        heat_map(
            maps[field],
            name=name,
            limits=limits[field],
            modes=maps.get("mode") if field == "density" else None,
        )
        for field, name in names.items()
        if maps and maps.get(field)
    ]
    if not found:
        return None
    return [element("h3", "Every layer and head"), element("div", found, class_="heats")]


def _galleries(pictures: Sequence[Mapping[str, Any]], link: Files) -> list[Safe]:
    """A titled gallery of all pictures, masks before attention maps, broad ones below the rest."""
    if not pictures:
        return []
    order = list(GROUPS)
    group_of = {id(p): str(p.get("group") or "other pictures") for p in pictures}
    named = sorted(set(group_of.values()), key=lambda g: (order.index(g) if g in order else 9, g))
    names = [GROUPS.get(group, group) for group in named]
    title = f"{names[0][0].upper()}{names[0][1:]}" + "".join(f" and {n.lower()}" for n in names[1:])
    broad = [p for p in pictures if link.is_broad(p["file"])]
    rest = [p for p in pictures if p not in broad]
    # Beside a single tall picture there is room for a broad one.
    span = len(rest) != 1
    rest.sort(key=lambda p: named.index(group_of[id(p)]))
    figures = [
        _figure(p["file"], p.get("title"), p.get("caption"), link, span=span and p in broad)
        for p in rest + broad
    ]
    return [element("h3", title), element("div", figures, class_="gallery")]


def _frames(method: Mapping[str, Any], link: Files) -> list[Safe] | None:
    """The sheet of frames of a method's clip."""
    if not link(method.get("sheet")):
        return None
    figure = _figure(method["sheet"], None, "Evenly spaced frames of the clip.", link, span=True)
    return [element("h3", "Frames"), element("div", figure, class_="gallery")]


def _figure(name: str, title: Any, caption: Any, link: Files, *, span: bool) -> Safe:
    """A picture that opens by itself on a click."""
    url, size = link(name), link.size(name)
    width, height = size or (None, None)
    alt = " ".join(str(text) for text in (title, caption) if text) or name
    classes = ["wide"] if span else []
    classes += ["pixels"] if size and size[0] < 200 else []
    picture = element("img", src=url, alt=alt, width=width, height=height, loading="lazy")
    return element(
        "figure",
        element("a", picture, href=url, target="_blank", title="open the picture alone"),
        element("figcaption", element("strong", title) if title else None, " ", caption),
        class_=" ".join(classes) or None,
    )


def heat_map(
    values: Sequence[Sequence[float | None]],
    *,
    name: str,
    limits: tuple[float, float],
    modes: Sequence[Sequence[str]] | None = None,
) -> Safe:
    """A table of layers and heads with the value in every cell and its colour behind it.

    Args:
      values: [layers][heads], shares.
      name: what is shown.
      limits: values of the lightest and the strongest colour.
      modes: optional word per cell.
    """
    low, high = limits
    heads = max((len(row) for row in values), default=0)
    body = []
    for layer, row in enumerate(values):
        cells = [element("th", f"layer {layer}", scope="row")]
        for head, raw in enumerate(row):
            value = finite(raw)
            level = (
                0.0 if value is None else min(1.0, max(0.0, (value - low) / ((high - low) or 1)))
            )
            mode = _cell(modes, layer, head)
            text = f"Layer {layer}, head {head}: {name} {percent(value, 1)}" + (
                f", {mode}" if mode else ""
            )
            cells.append(
                element(
                    "td",
                    percent(value, 1).replace("\u202f%", ""),
                    element("small", mode) if mode else None,
                    class_="hot" if level > 0.7 else "warm" if level > 0.5 else None,
                    style=f"--level:{100 * level:.0f}%",
                    title=text,
                    data_cell=f"{layer}-{head}",
                )
            )
        body.append(element("tr", cells))
    top = element(
        "tr", element("td"), [element("th", f"head {h}", scope="col") for h in range(heads)]
    )
    scale = element(
        "span", percent(low, 0), element("i", aria_hidden="true"), percent(high, 0), class_="scale"
    )
    return element(
        "div",
        element(
            "table",
            element("caption", f"{name} in %", scale),
            element("thead", top),
            element("tbody", body),
        ),
        class_="heat",
    )


def _cell(modes: Any, layer: int, head: int) -> str | None:
    try:
        return None if modes is None else str(modes[layer][head])
    except (IndexError, TypeError, KeyError):
        return None
