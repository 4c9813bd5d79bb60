import json

import pytest
from PIL import Image

from experiments.paper_figures.figure import Figure
from experiments.report.__main__ import Config, main
from experiments.report.report_page import write_page
from experiments.report.section import Pictures, Section
from experiments.report.sections import SECTIONS
from experiments.report.tables import Table, read_rows, render
from tests.experiments.documents import Document

NASTY = "<script>alert('x')</script> & \"quoted\""
FIGURES = (
    Figure("sta", "Density", "of a window", 0.25, "0.25", "table 1"),
    Figure("sta", "Density", "of another", 0.5, "0.25", "table 2", note="halved"),
)
TABLE = Table(
    records="toy",
    title="Toys",
    columns={"name": "name", "dB": "psnr_db:.1f", "count": "count", "nothing": "absent"},
    group=("name",),
    over=("seed",),
)
SECTION = Section(
    key="toys",
    title="Toys & more",
    question="Which toy?",
    command="python -m toys",
    tables=(TABLE,),
    pictures=(Pictures(glob="results/pictures/toy*.png", shows="A toy.", drawn_from="toy"),),
)


def line(measured, **changes):
    environment = {
        "python": "3.13", "jax": "0.11", "jaxlib": "0.11", "flax": "0.12", "numpy": "2",
        "device": "cpu", "num_devices": 1, "processor": "a processor", "num_cores": 2,
    }  # fmt: skip
    row = dict(
        name="toy",
        time="2026-11-21T09:00:00+00:00",
        git_sha="0123456789abcdef",
        dirty=False,
        environment=environment | changes.pop("environment", {}),
        config={},
        measured=measured,
    )
    return json.dumps(row | changes) + "\n"


@pytest.fixture
def folder(tmp_path):
    """An experiments' folder with one file of records, one picture and a log."""
    results = tmp_path / "experiments" / "results"
    (results / "pictures").mkdir(parents=True)
    (results / "toy.jsonl").write_text(
        line({"name": "ball", "seed": 1, "psnr_db": 10.0, "count": 12345})
        + line({"name": "ball", "seed": 1, "psnr_db": 20.0, "count": 12345})
        + line({"name": "ball", "seed": 2, "psnr_db": [29.0, 31.0], "count": 12345})
        + line({"name": NASTY, "seed": 1, "psnr_db": 7.0}, dirty=True)
    )
    Image.new("RGB", (60, 20)).save(results / "pictures" / "toy_one.png")
    (tmp_path / "experiments" / "LOG.md").write_text(
        "# Log\n\nNewest first.\n\n## 2026-11-22: `x` is fast (positive; on one core)\n\nSet-up:\ntwo "
        "`y`.\n\n## An entry of its own kind\n\nText.\n"
    )
    return tmp_path / "experiments"


def page(out, folder, sections, figures=FIGURES):
    missing = write_page(out, folder, sections, figures)
    return Document((out / "index.html").read_text(encoding="utf-8")), missing


def check_offline(document, out):
    """Nothing is loaded from elsewhere, and every link leads somewhere."""
    own = [a["id"] for _, a in document.tags if "id" in a]
    assert len(own) == len(set(own))
    for tag, attributes in document.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            url = attributes.get(name)
            if url is None or url.startswith("data:"):
                continue
            assert tag == "a", (tag, url)
            assert url[1:] in own if url.startswith("#") else (out / url).is_file(), url
    assert not document.all("script", "iframe", "object", "base")


def test_a_page_of_records_pictures_figures_and_log(tmp_path, folder):
    document, missing = page(tmp_path / "report", folder, (SECTION,))
    assert not missing
    check_offline(document, tmp_path / "report")
    text = " ".join(document.text)
    for wanted in (
        "Toys & more", "Which toy?", "python -m toys", "experiments/results/toy.jsonl: a processor, 2 cores",
        "commit 0123456789", "Some rows are of uncommitted code", "2 figures: 1 exact, 1 slip", "halved",
        "positive; on one core", "An entry of its own kind", "a processor, 2 cores", NASTY,
    ):  # fmt: skip
        assert wanted in text, wanted
    (picture,) = document.all("img")
    assert picture["src"].startswith("data:image/png;base64,")
    assert (picture["alt"], picture["width"]) == ("toy one: A toy.", "60")
    assert "File toy_one.png, drawn from toy." in text
    assert [a["class"] for a in document.all("em")] == ["verdict positive"]


def test_the_style_loads_nothing_and_knows_the_dark(tmp_path, folder):
    page(tmp_path / "report", folder, (SECTION,))
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    css = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in css
    assert "url(" not in css
    assert "prefers-color-scheme: dark" in css


def test_rows_take_the_newest_of_each_repetition_and_their_mean(folder):
    ball, nasty = read_rows(TABLE, folder / "results")
    assert ball.value("psnr_db") == pytest.approx(25.0)  # 20, and the mean of 29 and 31
    assert ball.value("count") == 12345
    assert nasty.value("count") is None
    document = Document(render(TABLE, [ball, nasty], "results"))
    cells = [t for t in document.text if t.strip()]
    assert cells[1:5] == [
        "name",
        "dB",
        "count",
        "records",
    ]  # a column that no record has is left out
    assert cells[5:9] == ["ball", "25.0", "12,345", "2"]
    assert cells[9:13] == [NASTY, "7.0", "–", "1"]


def test_machines_are_told_apart(folder):
    with (folder / "results" / "toy.jsonl").open("a") as file:
        gpu = {"device": "NVIDIA H200"}
        file.write(line({"name": "ball", "seed": 1, "psnr_db": 40.0}, environment=gpu))
    rows = read_rows(TABLE, folder / "results")
    assert [r.machine for r in rows if r.value("name") == "ball"] == [
        "a processor, 2 cores", "NVIDIA H200",
    ]  # fmt: skip
    text = " ".join(Document(render(TABLE, rows, "results")).text)
    assert "NVIDIA H200, a processor" in text


@pytest.mark.parametrize(
    ("measured", "options", "expected"),
    [
        ({"found": {"all": [{"a": 1}, {"a": 2}]}}, {"each": "found.all"}, [1, 2]),
        ({"a": [3, 4]}, {"zipped": ("a",)}, [3, 4]),
        ({"a": 5, "part": "x"}, {"where": {"part": "x"}}, [5]),
        ({"a": 5, "part": "x"}, {"where": {"part": "y"}}, []),
        ({"b": 5}, {"each": "found.all"}, []),
    ],
)
def test_rows_inside_a_record(tmp_path, measured, options, expected):
    (tmp_path / "toy.jsonl").write_text(line(measured))
    table = Table(records="toy", title="t", columns={"a": "a"}, group=("a",), **options)
    assert [row.value("a") for row in read_rows(table, tmp_path)] == expected


def test_long_tables_are_folded(tmp_path):
    (tmp_path / "toy.jsonl").write_text("".join(line({"name": str(i)}) for i in range(30)))
    document = Document(render(TABLE, read_rows(TABLE, tmp_path), "results"))
    assert len(document.all("details")) == 1
    assert "30 rows" in document.text


def test_what_was_not_measured_is_named_with_its_command(tmp_path):
    folder = tmp_path / "empty"
    (folder / "results").mkdir(parents=True)
    document, missing = page(tmp_path / "report", folder, (SECTION,))
    check_offline(document, tmp_path / "report")
    assert missing == [
        "experiments/results/toy.jsonl: not measured yet: `python -m toys`",
        "experiments/results/pictures/toy*.png: not measured yet: `python -m toys`",
        "experiments/LOG.md: there is none",
    ]
    assert len([a for a in document.all("p") if a.get("class") == "absent"]) == 2


def test_records_without_rows_for_a_table_are_named(tmp_path, folder):
    other = Table(records="toy", title="Cars", columns={"a": "a"}, group=(), where={"part": "car"})
    section = Section(key="cars", title="Cars", question="?", command="c", tables=(TABLE, other))
    _, missing = page(tmp_path / "report", folder, (section,))
    assert missing == ["experiments/results/toy.jsonl, Cars: not measured yet: `c`"]


def test_a_link_to_the_demo_where_it_was_made(tmp_path, folder):
    out = tmp_path / "out" / "report"
    (tmp_path / "out" / "demo").mkdir(parents=True)
    (tmp_path / "out" / "demo" / "index.html").write_text("demo")
    document, _ = page(out, folder, (SECTION,))
    check_offline(document, out)
    assert "../demo/index.html" in [a["href"] for a in document.all("a")]


def test_sections_of_the_project_are_whole(tmp_path, capsys):
    assert len({section.key for section in SECTIONS}) == len(SECTIONS)
    main(Config(out=tmp_path / "report"))
    document = Document((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    check_offline(document, tmp_path / "report")
    assert all(image["alt"] for image in document.all("img"))
    labels = {a.get("aria-label") for a in document.all("table")}
    # These were measured long ago, so a table without rows is a table that is named wrongly.
    assert {"One clip, every method", "Latency of one call", "Largest differences"} <= labels
    assert "index.html" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*gone for --folder; give one"):
        Config(folder=tmp_path / "gone")


def test_only_an_earlier_report_is_replaced(tmp_path, folder):
    out = tmp_path / "report"
    page(out, folder, ())
    page(out, folder, (SECTION,))
    assert "Which toy?" in (out / "index.html").read_text(encoding="utf-8")
    (out / "index.html").write_text("<title>My thesis</title>")
    with pytest.raises(
        ValueError, match=r"index.html is no earlier report .* choose another --out"
    ):
        page(out, folder, (SECTION,))
    assert (out / "index.html").read_text() == "<title>My thesis</title>"
