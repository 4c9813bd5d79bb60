"""The report's HTML: sections, pictures inside the page, what was measured where, the log."""

import base64
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from experiments import record
from experiments.html.markup import Safe, element, join, style
from experiments.paper_figures.figure import Figure
from experiments.report.section import Pictures, Section
from experiments.report.tables import machine, read_rows, render

RESULTS = "experiments/results"
TITLE = "SparseVDiT-JAX: what has been measured"
BROAD = 1.5  # width over height from which a picture takes a whole row
ENTRY = re.compile(r"^## (\d{4}-\d\d-\d\d): (.*?)(?: \(([^()]*)\))?$")


def write_page(
    out: Path, folder: Path, sections: Sequence[Section], figures: Sequence[Figure]
) -> list[str]:
    """Writes `out`/index.html in the place of an earlier report; returns what is missing, one sentence each.

    Args:
      out: folder of the page.
      folder: the experiments' folder: holds results/, their pictures, and LOG.md.
      sections: in order.
      figures: the papers' figures beside ours.

    Raises:
      ValueError: `out` has an index.html that is no report.
    """
    path = out / "index.html"
    if path.exists() and not is_report(path):
        raise ValueError(f"{path} is no earlier report and is not replaced; choose another --out")
    missing: list[str] = []
    demo = out.parent / "demo" / "index.html"
    parts = [show_section(s, folder, missing) for s in sections]
    body = [*parts, show_figures(figures), show_machines(folder), show_log(folder, missing)]
    contents = [(s.key, s.title) for s in sections]
    contents += [("figures", "Papers' figures"), ("machines", "Machines"), ("log", "Log")]
    links = [element("a", title, href=f"#{key}") for key, title in contents]
    document = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", TITLE),
            element("link", rel="icon", href="data:,"),
            element("style", style(Path(__file__).with_name("report.css"))),
        ),
        element(
            "body",
            element("nav", links, aria_label="Contents"),
            element("main", header(missing, demo.is_file()), body),
        ),
        lang="en",
    )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html>\n{document}\n", encoding="utf-8")
    return missing


def is_report(page: Path) -> bool:
    """Whether the file is an earlier report."""
    with page.open(encoding="utf-8", errors="replace") as file:
        return f"<title>{TITLE}</title>" in file.read(2000)


def header(missing: Sequence[str], has_demo: bool) -> Safe:
    """The title, what the page is, and what it lacks."""
    demo = element("a", "The demo's page", href="../demo/index.html") if has_demo else None
    lacks = [
        element("p", f"Not here yet, {len(missing)} of the page's parts:"),
        element("ul", [element("li", _code(text)) for text in missing]),
    ]
    return element(
        "header",
        element("h1", "What has been measured"),
        element(
            "p",
            "Sparse attention in video models: quality, searches, ablations, costs and parity. "
            "Every number is from a committed record, named under its table; a record names its "
            "machine, versions and commit. The model is a toy of 5 M parameters unless said otherwise.",
        ),
        element("p", demo, " shows one clip with every method.") if demo else None,
        element("details", element("summary", lacks[0]), lacks[1]) if missing else None,
    )


def show_section(section: Section, folder: Path, missing: list[str]) -> Safe:
    """Question, pictures and tables; what is absent is named here and added to `missing`."""
    parts: list[Any] = []
    for name in dict.fromkeys(table.records for table in section.tables):
        if not (folder / "results" / f"{name}.jsonl").exists():
            parts.append(_absent(f"{RESULTS}/{name}.jsonl", section.command, missing))
    for pictures in section.pictures:
        paths = sorted(folder.glob(pictures.glob))
        if not paths:
            parts.append(_absent(f"experiments/{pictures.glob}", section.command, missing))
        parts.append(element("div", [_figure(p, pictures) for p in paths], class_="gallery"))
    for table in section.tables:
        rows = read_rows(table, folder / "results")
        if rows:
            parts.append(render(table, rows, RESULTS))
        elif (folder / "results" / f"{table.records}.jsonl").exists():
            what = f"{RESULTS}/{table.records}.jsonl, {table.title}"
            parts.append(_absent(what, section.command, missing))
    return element(
        "section",
        element("h2", section.title),
        element("p", section.question),
        parts,
        element("p", "Measure again: ", element("code", section.command), class_="quiet"),
        id=section.key,
    )


def _absent(what: str, command: str, missing: list[str]) -> Safe:
    text = f"{what}: not measured yet: `{command}`"
    missing.append(text)
    return element("p", _code(text), class_="absent")


def _figure(path: Path, pictures: Pictures) -> Safe:
    """A picture as part of the page."""
    with Image.open(path) as picture:
        width, height = picture.size
        kind = Image.MIME[picture.format or "PNG"]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = path.stem.replace("_", " ")
    return element(
        "figure",
        element(
            "img",
            src=f"data:{kind};base64,{data}",
            alt=f"{name}: {pictures.shows}",
            width=width,
            height=height,
            loading="lazy",
        ),
        element(
            "figcaption",
            element("strong", name),
            f"{pictures.shows} File {path.name}, drawn from {pictures.drawn_from}.",
        ),
        class_="wide" if width > BROAD * height else None,
    )


def show_figures(figures: Sequence[Figure]) -> Safe:
    """The papers' figures beside ours, computed now; slips with what is wrong."""
    counts = Counter(f.verdict for f in figures)
    heads = ("system", "what", "figure", "computed", "printed", "verdict", "where", "note")
    rows = []
    for f in figures:
        words = (f.system, f.group, f.name, f.show(f.computed.value), f.printed, f.verdict)
        cells = [element("td", word) for word in (*words, f.where, f.note)]
        rows.append(element("tr", cells, class_="slip" if f.verdict == "slip" else None))
    table = element(
        "table",
        element("thead", element("tr", [element("th", h, scope="col") for h in heads])),
        element("tbody", rows),
        class_="records",
        aria_label="Figures",
    )
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    return element(
        "section",
        element("h2", "The papers' figures"),
        element(
            "p",
            "Do the papers' densities and counts come out of this code? Computed when this page was "
            "made. A slip is a printed number that cannot be right; the note says why.",
        ),
        element("p", f"{len(figures)} figures: {told}."),
        element(
            "details",
            element("summary", f"{len(rows)} rows"),
            element("div", table, class_="scroll", tabindex=0),
        ),
        element(
            "p",
            "Print them: ",
            element("code", "python -m experiments.paper_figures"),
            class_="quiet",
        ),
        id="figures",
    )


def show_machines(folder: Path) -> Safe:
    """Every record file: how many lines, when, on what, with which versions."""
    heads = ("file", "records", "from", "to", "on", "jax", "commits", "of uncommitted code")
    body = []
    for path in sorted((folder / "results").glob("*.jsonl")):
        rows = record.read(path.stem, folder=path.parent)
        if not rows:
            continue
        where = [row["environment"] for row in rows]
        times = sorted(row["time"][:10] for row in rows)
        machines = {machine(e) for e in where}
        cells = (
            element("td", path.name),
            element("td", f"{len(rows):,}", class_="number"),
            element("td", times[0]),
            element("td", times[-1]),
            element("td", "; ".join(sorted(machines))),
            element("td", ", ".join(sorted({e["jax"] for e in where}))),
            element("td", len({row["git_sha"] for row in rows}), class_="number"),
            element("td", sum(row["dirty"] for row in rows), class_="number"),
        )
        body.append(element("tr", cells))
    table = element(
        "table",
        element("thead", element("tr", [element("th", h, scope="col") for h in heads])),
        element("tbody", body),
        class_="records",
        aria_label="Record files",
    )
    return element(
        "section",
        element("h2", "Measured where"),
        element("p", "All files of records. Times of different machines do not compare."),
        element("div", table, class_="scroll", tabindex=0),
        id="machines",
    )


def show_log(folder: Path, missing: list[str]) -> Safe:
    """The log: date, question and verdict of each entry, its text folded below."""
    path = folder / "LOG.md"
    if not path.is_file():
        missing.append("experiments/LOG.md: there is none")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    entries = []
    for chunk in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        heading, _, rest = chunk.partition("\n")
        if not heading.startswith("## "):
            continue
        date, title, verdict = _entry(heading)
        summary = element(
            "summary",
            element("time", date),
            " ",
            element("strong", _code(title)),
            " ",
            _verdict(verdict),
        )
        paragraphs = [
            element("p", _code(" ".join(p.split()))) for p in rest.split("\n\n") if p.strip()
        ]
        entries.append(element("details", summary, paragraphs))
    return element(
        "section",
        element("h2", "Log"),
        element(
            "p",
            f"{len(entries)} questions with their verdicts, newest first; open one for its text.",
        ),
        element("div", entries, class_="log"),
        id="log",
    )


def _verdict(text: str) -> Safe | None:
    """The verdict, coloured by its first word."""
    word = re.match(r"\w*", text)
    return element("em", text, class_=f"verdict {word[0]}") if text and word else None


def _entry(heading: str) -> tuple[str, str, str]:
    """Date, title and verdict of "## 2026-11-21: title (positive)"; empty where absent."""
    found = ENTRY.match(heading)
    return (found[1], found[2], found[3] or "") if found else ("", heading[3:], "")


def _code(text: str) -> Safe:
    """Text in which `backticks` mark code."""
    return join(element("code", part) if i % 2 else part for i, part in enumerate(text.split("`")))
