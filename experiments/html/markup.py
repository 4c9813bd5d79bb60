"""HTML that is safe by construction, and numbers as people read them."""

import html
import json
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

BASE = Path(__file__).with_name("base.css")
NOTHING = "–"
VOID = frozenset({"img", "input", "br", "link", "meta"})


class Safe(str):
    """Text that is HTML already; every other string is escaped when it enters an element."""

    __slots__ = ()


def element(tag: str, /, *children: Any, **attributes: Any) -> Safe:
    """`<tag ...>children</tag>`; strings are escaped, None and False are left out.

    Args:
      tag: element name.
      children: `Safe`, text, numbers, or iterables of these.
      attributes: `class_` becomes `class`, other underscores become
        hyphens; True gives a bare name.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        words.append(name if value is True else f'{name}="{html.escape(str(value), quote=True)}"')
    head = f"<{' '.join(words)}>"
    return Safe(head) if tag in VOID else Safe(f"{head}{join(children)}</{tag}>")


def join(children: Iterable[Any]) -> Safe:
    """Children one after the other, escaped where they are not `Safe`."""
    parts = []
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, Safe):
            parts.append(child)
        elif isinstance(child, str | int | float):
            parts.append(html.escape(str(child), quote=False))
        else:
            parts.append(join(child))
    return Safe("".join(parts))


def style(sheet: Path) -> Safe:
    """The style of all pages, light and dark, and then that of one page."""
    return Safe("".join(path.read_text(encoding="utf-8") for path in (BASE, sheet)))


def script_json(value: Any) -> Safe:
    """JSON that may stand inside a script element: no `<`, `>`, `&`, and no NaN or infinity."""
    text = json.dumps(plain(value, only_finite=True), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Safe(text)


def plain(value: Any, *, only_finite: bool = False) -> Any:
    """Dictionaries, lists, text and numbers only; on request NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, only_finite=only_finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, only_finite=only_finite) for item in value]
    if hasattr(value, "tolist"):  # numpy and JAX arrays and scalars
        return plain(value.tolist(), only_finite=only_finite)
    if only_finite and isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def finite(value: Any) -> float | None:
    """The number as float, or None for what is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


def number(value: Any, digits: int = 2) -> str:
    """A fixed number of decimals, thin spaces between thousands, `∞` for infinity."""
    if value == math.inf:
        return "∞"
    value = finite(value)
    return NOTHING if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def percent(value: Any, digits: int | None = None) -> str:
    """A share as per cent; by itself it shows a decimal only below 10 % and near 100 %."""
    value = finite(value)
    if value is None:
        return NOTHING
    if digits is None:
        digits = 1 if (0 < value < 0.1 or 0.97 < value < 1) else 0
    return f"{100 * value:.{digits}f}\u202f%"


def times(value: Any) -> str:
    """A ratio, `1.84x`."""
    value = finite(value)
    return NOTHING if value is None else f"{value:.{2 if value < 10 else 1}f}×"


def milliseconds(value: Any) -> str:
    """Milliseconds without a unit, about three digits."""
    value = finite(value)
    if value is None:
        return NOTHING
    return number(value, 0 if value >= 100 else 1 if value >= 10 else 2)
