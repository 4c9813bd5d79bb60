import json

import pytest

from experiments.demo.folder import begin, finish, holds_demo, place_beside, write_results


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "demo"


def earlier(folder, **results):
    folder.mkdir(parents=True)
    write_results(folder, {"methods": [], **results})
    (folder / "dense.gif").write_text("clip")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_demo_is_built_beside_and_moved(out, capsys):
    new = place_beside(out)
    assert new == out.with_name("demo.new")
    assert not out.parent.exists()
    begin(new)
    assert holds_demo(new)
    finish(new, out)
    assert names(out.parent) == ["demo"]
    assert capsys.readouterr().out == ""  # nothing was replaced


def test_an_earlier_demo_stays_until_the_new_one_is_finished(out, capsys):
    earlier(out, seed=1)
    new = place_beside(out)
    begin(new)
    assert json.loads((out / "results.json").read_text())["seed"] == 1
    finish(new, out)
    assert names(out) == ["results.json"]
    assert names(out.parent) == ["demo"]
    assert capsys.readouterr().out == f"replaced the earlier demo in {out}\n"


def test_what_an_unfinished_demo_left_goes(out):
    unfinished = out.with_name("demo.new")
    earlier(unfinished)
    (unfinished / "earlier").mkdir()
    begin(place_beside(out))
    assert names(unfinished) == ["results.json"]


@pytest.mark.parametrize("name", ["demo", "demo.new"])
@pytest.mark.parametrize(
    ("file", "text"),
    [("thesis.tex", "three years of work"), ("results.json", '{"mine": 1}'), ("results.json", "1")],
)
def test_folders_of_others_are_refused(out, name, file, text):
    theirs = out.with_name(name)
    theirs.mkdir(parents=True)
    (theirs / file).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is in use .* results.json; choose another --out"):
        place_beside(out)
    assert (theirs / file).read_text() == text


def test_an_empty_folder_is_used_and_a_file_is_not(out):
    out.mkdir(parents=True)
    new = place_beside(out)
    begin(new)
    finish(new, out)
    assert names(out) == ["results.json"]
    (out / "dense.gif").write_text("clip")
    with pytest.raises(ValueError, match=r"dense\.gif is in use"):
        place_beside(out / "dense.gif")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"file is a file, so .* choose another folder"):
        place_beside(tmp_path / "file" / "demo")
