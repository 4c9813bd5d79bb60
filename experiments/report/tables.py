"""Records as rows of a table: chosen, averaged over repetitions, and written as HTML."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import record
from experiments.html.markup import NOTHING, Safe, element, finite
from experiments.provenance import provenance

OPEN_ROWS = 24
"""A longer table is folded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Which records a table shows, and how.

    Of records that differ in nothing named here the newest counts. Numbers of records that differ in
    `over` alone are averaged, and so are lists of numbers; a column says how many there were.

    Attributes:
      records: name of the file in the results, without ending.
      title: what the rows are.
      columns: heading -> name of what was measured, with dots into what is nested, and a format:
        "psnr_db:.1f". Columns that no record has are left out.
      group: names that tell rows apart.
      over: names that tell repetitions of a row apart.
      where: measured values that the records must have.
      each: name of a list in the measured; every item of it is a row, beside its record's values.
      zipped: names of lists of one length; their first items are a row, and so on.
    """

    records: str
    title: str
    columns: Mapping[str, str]
    group: tuple[str, ...]
    over: tuple[str, ...] = ()
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    each: str = ""
    zipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """Measured values of one or several records.

    Attributes:
      values: of each record, newest ones of their repetition only.
      machine: that they were measured on.
      sources: the records.
    """

    values: tuple[Mapping[str, Any], ...]
    machine: str
    sources: tuple[Mapping[str, Any], ...]

    def value(self, name: str) -> Any:
        """The mean of numbers, the one value of anything else, None if there is none."""
        found = [look_up(v, name) for v in self.values]
        found = [v for v in found if v is not None]
        numbers = [_mean(v) for v in found]
        if found and None not in numbers:
            whole = len(found) == 1 or len(set(found if not _listed(found) else numbers)) == 1
            return found[0] if whole and not _listed(found) else statistics.fmean(numbers)
        return found[0] if found else None


def look_up(values: Any, name: str) -> Any:
    """`values["a"]["b"]` for "a.b", None where there is nothing."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _listed(found):
    return any(isinstance(v, list) for v in found)


def _mean(value):
    """A number, or the mean of a list of numbers, or None for anything else."""
    if isinstance(value, list) and value and all(finite(v) is not None for v in value):
        return statistics.fmean(value)
    return finite(value)


def read_rows(table: Table, folder: Path) -> list[Row]:
    """The rows of a table, in the order in which they first appear; none without a file."""
    if not (folder / f"{table.records}.jsonl").exists():
        return []
    newest: dict[tuple[str, ...], dict[str, tuple]] = {}
    for source in record.read(table.records, folder=folder):
        measured = source["measured"]
        if any(look_up(measured, k) != v for k, v in table.where.items()):
            continue
        where = machine(source["environment"])
        for item in _items(table, measured):
            values = {**measured, **item}
            row = (where, *(_text_key(look_up(values, k)) for k in table.group))
            repetition = json.dumps([look_up(values, k) for k in table.over], sort_keys=True)
            newest.setdefault(row, {})[repetition] = (values, source)
    rows = []
    for (where, *_), found in newest.items():
        values, sources = zip(*found.values(), strict=True)
        rows.append(Row(values, where, sources))
    return rows


def _items(table: Table, measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the rows of one record have of their own."""
    if table.each:
        return look_up(measured, table.each) or []
    if not table.zipped:
        return [{}]
    lists = [look_up(measured, name) or [] for name in table.zipped]
    return [dict(zip(table.zipped, items, strict=True)) for items in zip(*lists, strict=True)]


def _text_key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def machine(environment: Mapping[str, Any]) -> str:
    """The accelerator of a record, or its processor and how many cores."""
    if environment["device"] != "cpu":
        return environment["device"]
    return f"{environment['processor']}, {environment['num_cores']} cores"


def render(table: Table, rows: Sequence[Row], name: str) -> Safe:
    """The rows as HTML, folded if there are many, and where they come from."""
    columns = {
        heading: column.partition(":")[::2]
        for heading, column in table.columns.items()
        if any(row.value(column.partition(":")[0]) is not None for row in rows)
    }
    machines = list(dict.fromkeys(row.machine for row in rows))
    repeated = max(len(row.values) for row in rows) > 1
    head = [*columns, *(["records"] if repeated else []), *(["on"] if len(machines) > 1 else [])]
    numeric = {
        h: all(_is_number(row.value(key)) for row in rows) for h, (key, _) in columns.items()
    }
    body = []
    for row in rows:
        cells = [
            element("td", cell_text(row.value(key), spec), class_=_class(numeric[heading]))
            for heading, (key, spec) in columns.items()
        ]
        if repeated:
            cells.append(element("td", len(row.values), class_="number"))
        if len(machines) > 1:
            cells.append(element("td", row.machine))
        body.append(element("tr", cells))
    heads = [
        element("th", h, scope="col", class_=_class(numeric.get(h, h == "records"))) for h in head
    ]
    html = element(
        "table",
        element("thead", element("tr", heads)),
        element("tbody", body),
        class_="records",
        aria_label=table.title,
    )
    html = element("div", html, class_="scroll", tabindex=0)
    if len(rows) > OPEN_ROWS:
        html = element("details", element("summary", f"{len(rows)} rows"), html)
    return element(
        "div", element("h3", table.title), html, sources_line(rows, f"{name}/{table.records}.jsonl")
    )


def cell_text(value: Any, spec: str) -> str:
    """A number by its format, the mean of numbers, or text."""
    number = _mean(value)
    if number is not None:
        value = number if isinstance(value, list) else value
        return format(value, spec or ("," if isinstance(value, int) else ".4g"))
    if isinstance(value, list | Mapping):
        return json.dumps(value)
    return NOTHING if value is None else str(value)


def _is_number(value):
    return value is None or _mean(value) is not None


def _class(is_number):
    return "number" if is_number else None


def sources_line(rows: Sequence[Row], path: str) -> Safe:
    """File, machines, versions and commits of the rows."""
    sources = [source for row in rows for source in row.sources]
    text = f"{path}: {provenance(sources)}"
    if any(source["dirty"] for source in sources):
        text += ". Some rows are of uncommitted code"
    return element("p", f"{text}.", class_="source")
