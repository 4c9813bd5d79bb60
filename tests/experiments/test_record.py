import dataclasses
import json
import os
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import record
from experiments.record import Run, environment, git_state, markdown_table, read
from sparsevdit_jax import Phase


@dataclasses.dataclass(frozen=True)
class Config:
    window: tuple[int, ...] = (3, 3, 3)
    out: Path = Path("out/x")
    phase: Phase = Phase.DENSE


@pytest.fixture
def clean_tree(monkeypatch):
    monkeypatch.setattr(record, "git_state", lambda: ("a" * 40, []))


@pytest.fixture
def run(tmp_path, clean_tree):
    return Run.start("speed", Config(), folder=tmp_path)


def test_a_line_holds_all_that_is_needed_to_measure_again(run, tmp_path):
    run.log(tokens=4096, density=np.float32(0.125), forward_ms=jnp.float32(2.5), method="sta")
    (row,) = read("speed", folder=tmp_path)
    assert set(row) == set(record.FIELDS)
    assert row["git_sha"] == "a" * 40
    assert row["dirty"] is False
    assert row["config"] == {"window": [3, 3, 3], "out": "out/x", "phase": "DENSE"}
    assert row["measured"] == {"tokens": 4096, "density": 0.125, "forward_ms": 2.5, "method": "sta"}
    assert row["environment"] == environment()
    assert row["time"].endswith("+00:00")


def test_environment_names_versions_and_device():
    facts = environment()
    assert {"python", "jax", "jaxlib", "flax", "numpy", "device", "processor"} <= set(facts)
    assert all(facts.values())
    json.dumps(facts)


def test_a_file_only_grows(run, tmp_path, clean_tree):
    run.log(forward_ms=1.0)
    first = run.path.read_bytes()
    Run.start("speed", {}, folder=tmp_path).log(forward_ms=2.0)
    assert run.path.read_bytes().startswith(first)
    assert [row["measured"]["forward_ms"] for row in read("speed", folder=tmp_path)] == [1.0, 2.0]


def test_a_dirty_tree_is_refused_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "git_state", lambda: ("b" * 40, [" M a.py", "?? b.py"]))
    with pytest.raises(ValueError, match=r"'M a.py' and 1 more.*--allow-dirty"):
        Run.start("speed", {}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert Run.start("speed", {}, allow_dirty=True, folder=tmp_path).log(a_ms=1.0)["dirty"] is True


def test_without_a_commit_it_says_what_to_carry(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "git_state", lambda: ("unknown", ["no git commit here"]))
    with pytest.raises(ValueError, match=r"no git commit.*git archive HEAD.*--allow-dirty"):
        Run.start("speed", {}, folder=tmp_path)
    assert Run.start("speed", {}, allow_dirty=True, folder=tmp_path).dirty


def test_git_state_sees_changes_but_not_new_results(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True
        )

    outside = dict(os.environ)
    assert git_state(tmp_path)[1], "no repository counts as dirty"
    git("init", "-q")
    assert git_state(tmp_path) == ("unknown", ["no git commit here"])
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    sha, changes = git_state(tmp_path)
    assert len(sha) == 40
    assert changes == []
    for written in ("results/x.jsonl", "methods/pages/x.md"):
        path = tmp_path / "experiments" / written
        path.parent.mkdir(parents=True)
        path.write_text("{}\n")
    assert git_state(tmp_path) == (sha, [])
    (tmp_path / "code.py").write_text("a = 2\n")
    assert git_state(tmp_path) == (sha, [" M code.py"])
    assert dict(os.environ) == outside


def test_an_archive_knows_its_commit_and_what_was_changed_since(tmp_path):
    """The commit of a tree without .git, in whatever repository that tree may lie."""
    root, written = tmp_path / "archive", 1e9

    def put(path, text):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        os.utime(root / path, (written, written))

    put("experiments/COMMIT", "$Format:%H$\n")
    assert git_state(root)[1], "no archive, no commit"
    put("experiments/COMMIT", "c" * 40 + "\n")
    put("models/wan/model.py", "a = 1\n")
    put("experiments/results/h200/gpu_check.jsonl", "{}\n")
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    assert git_state(root) == ("c" * 40, [])
    (root / "experiments/results/h200/gpu_check.jsonl").write_text("{}\n{}\n")
    (root / "notes.py").write_text("")
    assert git_state(root) == ("c" * 40, [])
    (root / "models/wan/model.py").write_text("a = 2\n")
    assert git_state(root) == ("c" * 40, [" M models/wan/model.py"])


def test_git_archive_writes_the_commit():
    attribute = ["git", "-C", str(record.ROOT), "check-attr", "export-subst", "experiments/COMMIT"]
    said = subprocess.run(attribute, check=True, capture_output=True, text=True).stdout
    assert said.strip().endswith("export-subst: set")
    stamp = (record.ROOT / "experiments/COMMIT").read_text().strip()
    assert stamp == "$Format:%H$" or len(stamp) == 40


@pytest.mark.parametrize("key", ["latency_ms", "peak_memory_mib", "density", "rate_tokens_per_s"])
def test_keys_with_a_unit_pass(run, key):
    assert run.log(**{key: 1.5})["measured"] == {key: 1.5}


def test_a_fraction_without_unit_is_refused(run):
    with pytest.raises(ValueError, match=r"'latency' does not say its unit.*latency_ms"):
        run.log(latency=1.5)
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("measured", "error", "message"),
    [
        ({}, ValueError, "nothing measured"),
        ({"a_ms": float("nan")}, ValueError, r"measured\['a_ms'\] is nan"),
        ({"a_ms": [1.0, float("inf")]}, ValueError, r"measured\['a_ms'\]\[1\] is inf"),
        ({"a_ms": np.ones(3)}, TypeError, r"measured\['a_ms'\] is a ndarray"),
    ],
)
def test_what_is_no_measurement_is_refused(run, measured, error, message):
    with pytest.raises(error, match=message):
        run.log(**measured)
    assert not run.path.exists()


@pytest.mark.parametrize("name", ["", "../speed", "Speed", "speed.jsonl"])
def test_a_name_must_be_a_plain_file_name(name, tmp_path, clean_tree):
    with pytest.raises(ValueError, match="must be lower-case"):
        Run.start(name, {}, folder=tmp_path)


def test_reading_what_was_never_recorded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m experiments\.speed"):
        read("speed", folder=tmp_path)


@pytest.mark.parametrize("bad", ["not json", "[1]", '{"name": "speed"}', "3"])
def test_a_bad_line_is_named(bad, run, tmp_path):
    run.log(a_ms=1.0)
    with run.path.open("a") as file:
        file.write(bad + "\n")
    with pytest.raises(ValueError, match=r"speed\.jsonl:2 is not a record .*delete that line"):
        read("speed", folder=tmp_path)


def test_nothing_is_appended_to_half_a_line(run, tmp_path):
    run.path.write_text('{"name": "spe')
    with pytest.raises(ValueError, match="does not end with a whole line"):
        run.log(a_ms=1.0)
    with pytest.raises(ValueError, match="does not end with a whole line"):
        Run.start("speed", {}, folder=tmp_path)
    assert run.path.read_text() == '{"name": "spe'


def test_markdown_table(run, tmp_path):
    run.log(tokens=4096, forward_ms=1.25)
    run.log(tokens=8192, forward_ms=5.0)
    rows = read("speed", folder=tmp_path)
    columns = {"tokens": "{measured[tokens]:,}", "forward, ms": "{measured[forward_ms]:.2f}"}
    assert markdown_table(rows, columns) == (
        "| tokens | forward, ms |\n|---|---|\n| 4,096 | 1.25 |\n| 8,192 | 5.00 |"
    )
    with pytest.raises(ValueError, match=r"column 'x' reads .*'speedup'"):
        markdown_table(rows, {"x": "{measured[speedup]}"})


def test_paths_in_a_record_are_the_projects_not_the_machines(tmp_path):
    settings = {"inside": record.ROOT / "experiments" / "x.txt", "outside": tmp_path / "y.txt"}
    run = record.Run.start("paths", settings, allow_dirty=True, folder=tmp_path)
    assert run.config == {"inside": "experiments/x.txt", "outside": "y.txt"}
