import pytest

from experiments import readme_tables, record
from experiments.methods import page, picture
from experiments.methods.__main__ import Config, draw
from sparsevdit_jax.presets import METHODS


def test_a_method_that_there_is_not():
    with pytest.raises(ValueError, match="--only nobody: no such method; there are sta, "):
        Config(only=("sta", "nobody"))


def test_a_picture_and_what_it_shows(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(page, "PAGES", tmp_path)
    monkeypatch.setattr(picture, "draw", lambda *given: drawn.append(given))
    run = record.Run.start("methods", {}, allow_dirty=True, folder=tmp_path)
    draw(METHODS["efficient-vdit"], run)
    ((rows, path),) = drawn
    assert path == tmp_path / "efficient-vdit.png"
    left_out = (
        6 * 5 / 8**2 * (2048 / 2064) ** 2
    )  # two of eight frames are global; 16 tokens of text
    assert [title for title, _ in rows] == [f"GlobalFrames, density {1 - left_out:.2f}"]
    (row,) = record.read("methods", folder=tmp_path)
    assert row["measured"] == dict(
        method="efficient-vdit",
        online=False,
        has_plan=True,
        blocks=["128 x 128"],
        skips=False,
        hopper=True,
    )


def test_a_method_that_was_not_drawn(tmp_path):
    run = record.Run.start("methods", {}, allow_dirty=True, folder=tmp_path)
    for name in METHODS:
        if name != "sla":
            run.log(method=name)
    with pytest.raises(ValueError, match=r"no record of sla: run python .* --only sla"):
        page.facts(tmp_path)


def test_a_page_that_is_not_there_yet(monkeypatch):
    monkeypatch.setattr(readme_tables, "TABLES", {record.ROOT / "nowhere.md": {}})
    with pytest.raises(SystemExit, match=r"nowhere\.md is missing: run python -m experiments"):
        readme_tables.main(readme_tables.Config(check=True))
