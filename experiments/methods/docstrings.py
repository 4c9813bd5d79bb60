"""What a docstring says, taken apart for a page: summary, how it chooses, sources, differences, arguments."""

import dataclasses
import inspect
import re
import types
from typing import Any

_SENTENCE = re.compile(r"(?<=[.:;])\s+(?=Differs\b)|(?<=\.)\s+(?=[A-Z`\"])")
_DIFFERS = re.compile(r"\bDiffers\b|\bdiffers from\b")
_SOURCE = re.compile(r"^(Source|Reference|Follows)\b")
_BAR = re.compile(r"(?<!\\)\|")
_LIST = re.compile(r"[*-] ")
_FIELD = re.compile(r"^  (\w+): ")
_ARXIV = re.compile(r"(?<![\[\w])(?:arXiv )?(\d{4}\.\d{5})\b")


@dataclasses.dataclass(frozen=True)
class Docstring:
    """The parts of the docstring of a pattern.

    Attributes:
      summary: its first sentence.
      rule: the paragraphs that say how it chooses.
      source: the paragraphs that name the code or paper that it follows.
      differs: the paragraphs that say where it differs from them.
      arguments: name -> meaning.
    """

    summary: str
    rule: tuple[str, ...]
    source: tuple[str, ...]
    differs: tuple[str, ...]
    arguments: dict[str, str]


def parse(text: str) -> Docstring:
    """Takes a docstring apart.

    In a paragraph, the sentences from "Source", "Reference" or "Follows" on tell the source, and those
    from one that says "Differs" or "differs from" on tell the differences.
    """
    body, _, attributes = inspect.cleandoc(text).partition("\nAttributes:\n")
    rule, source, differs = [], [], []
    first, last = "", rule
    for number, paragraph in enumerate(re.split(r"\n\s*\n", body.strip())):
        if _LIST.match(paragraph):
            last.append(paragraph)  # a list belongs to what stands above it
            continue
        sentences = _SENTENCE.split(" ".join(paragraph.split()))
        if number == 0:
            first = sentences[0]
        at = next((i for i, s in enumerate(sentences) if _DIFFERS.search(s)), len(sentences))
        said = next((i for i, s in enumerate(sentences[:at]) if _SOURCE.match(s)), at)
        parts = (rule, sentences[:said]), (source, sentences[said:at]), (differs, sentences[at:])
        for kind, own in parts:
            if own:
                kind.append(" ".join(own))
                last = kind
    return Docstring(first, tuple(rule), tuple(source), tuple(differs), _attributes(attributes))


def _attributes(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if start := _FIELD.match(line):
            name = start[1]
            found[name] = line[start.end() :].strip()
        elif line.strip() and name:
            found[name] += f" {line.strip()}"
    return found


def markdown(text: str) -> str:
    """A docstring's text as Markdown: one kind of quotes for code, and links for arXiv numbers."""
    text = text.replace("``", "`")
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _linked(part) for part in parts)


def _linked(text: str) -> str:
    text = text.replace("*", r"\*").replace("|", r"\|").replace("<", r"\<").replace("_", r"\_")
    text = re.sub(r"(?m)^\\\* ", "* ", text)  # a list's bullets stay
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def arxiv_of(*texts: str) -> str | None:
    """The first arXiv number in the texts."""
    return next((m[1] for text in texts if (m := _ARXIV.search(text))), None)


def arguments_table(kind: type) -> str:
    """Name, type, default and meaning of a pattern's fields.

    Raises:
      ValueError: the docstring says nothing of a field.
    """
    meanings: dict[str, str] = {}
    for base in kind.__mro__:  # a base says what its fields mean
        meanings = parse(base.__doc__ or "").arguments | meanings
    lines = ["| argument | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if field.name not in meanings:
            raise ValueError(
                f"{kind.__name__}.{field.name} has no line under 'Attributes:' in its docstring; add one"
            )
        shown = type_name(field.type).replace("|", r"\|")
        default = "" if field.default is dataclasses.MISSING else f"`{_value(field.default)}`"
        meaning = _BAR.sub(r"\|", markdown(meanings[field.name]))  # in code, too
        lines.append(f"| `{field.name}` | `{shown}` | {default} | {meaning} |")
    return "\n".join(lines)


def type_name(annotation: Any) -> str:
    """An annotation as one writes it."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, types.UnionType):
        return " | ".join(map(type_name, annotation.__args__))
    if annotation is type(None):
        return "None"
    if isinstance(annotation, types.GenericAlias):
        inside = ", ".join(map(type_name, annotation.__args__))
        return f"{annotation.__origin__.__name__}[{inside}]"
    if annotation is Ellipsis:
        return "..."
    return getattr(annotation, "__name__", str(annotation))


def call(pattern: Any) -> str:
    """A pattern as one writes it: its class and what differs from the defaults."""
    given = []
    for field in dataclasses.fields(pattern):
        value = getattr(pattern, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            given.append(f"{field.name}={_value(value)}")
    return f"{type(pattern).__name__}({', '.join(given)})"


def _value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return call(value)
    return f'"{value}"' if isinstance(value, str) else repr(value)
