"""The comparison's flags, table and file. The package's docstring has the question and the answer."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Literal

from experiments import command, paper_figures
from experiments.paper_figures.figure import Figure
from experiments.paper_figures.rows import SYSTEMS, figures

STYLES = {"exact": "green", "holds": "green", "rounding": "cyan", "slip": "bold red"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the comparison.

    Attributes:
      system: the paper to check; "others" are systems that this library does not implement.
      json: file to write the rows to, as a list; must not exist.
      force: replace the file at --json.
    """

    system: Literal["all", "sta", "adaspa", "sparse-vdit", "others"] = "all"
    json: Path | None = None
    force: bool = False


def print_table(rows: list[Figure]) -> None:
    """Rows by group, then what the slips are."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 130))
    for system in SYSTEMS:
        mine = [row for row in rows if row.system == system]
        if not mine:
            continue
        table = Table(title=f"{system}: computed beside printed", title_justify="left")
        for name in (
            "figure",
            "computed",
            "printed",
            "difference",
            "tolerance",
            "verdict",
            "where",
        ):
            right = name in ("computed", "printed", "difference", "tolerance")
            table.add_column(name, justify="right" if right else "left", no_wrap=True)
        group = ""
        for row in mine:
            if row.group != group:
                table.add_section()
                table.add_row(f"[bold]{escape(row.group)}[/bold]")
                group = row.group
            verdict = f"[{STYLES[row.verdict]}]{row.verdict}[/]"
            difference = "" if row.is_bound else row.show(row.difference, sign=True)
            tolerance = "" if row.is_bound else row.show(row.tolerance)
            cells = f"  {row.name}", row.show(row.computed.value), row.printed
            table.add_row(*map(escape, cells), difference, tolerance, verdict, escape(row.where))
        console.print(table)
    counts = Counter(row.verdict for row in rows)
    console.print(f"{len(rows)} figures: " + ", ".join(f"{counts[v]} {v}" for v in STYLES))
    for row in rows:
        if row.verdict == "slip":
            text = f"{row.system}, {row.group}, {row.name}: {row.note}"
            console.print(f"[bold red]slip[/] {escape(text)}", soft_wrap=True)


def write_json(path: Path, rows: list[Figure], *, force: bool = False) -> None:
    """Writes the rows; FileExistsError where `path` exists, unless `force`."""
    check_free(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row.to_dict() for row in rows], indent=1) + "\n")


def check_free(path: Path, *, force: bool) -> None:
    """FileExistsError where writing `path` would replace something that may not be replaced."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; name another file or add --force to replace it")


def main(config: Config) -> None:
    """Prints the table, and writes it where asked."""
    if config.json:
        check_free(config.json, force=config.force)
    rows = figures(config.system)
    print_table(rows)
    if config.json:
        write_json(config.json, rows, force=config.force)
        print(f"wrote {config.json}")


if __name__ == "__main__":
    command.run(main, Config, description=paper_figures.__doc__)
