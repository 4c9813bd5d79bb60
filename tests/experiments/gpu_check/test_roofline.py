"""Records of a run become results, a picture and a part of the README."""

import json

import pytest

from experiments import readme_tables, record
from experiments.gpu_check import roofline

TIMING = {
    "part": "forward", "case": "S1", "candidate": "mosaic_gpu", "tokens": 115_200, "shape": "B1 H24 L115200 D128",
    "dtype": "bfloat16", "density": 0.09, "latency_ms": 23.0, "rate_tflops": 638.0, "fraction_of_peak": 0.64,
    "floor_ms": 14.8, "dense_equivalent_tflops": 7089.0,
}  # fmt: skip
VERDICT = {
    "part": "forward", "verdict": "S1, selected FLOPs", "value_ratio": 651.0, "target_ratio": 640.0, "unit": "TFLOPS",
    "reached": True,
}  # fmt: skip
CHECK = {"part": "check", "check": "64x64: mosaic_gpu", "outcome": "right", "result": "out 1e-3"}


def write(folder, *measured, device="NVIDIA H200", dirty=False, dry_run=False, end="\n"):
    """A run's records."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "name": "gpu_check", "time": f"2027-01-01T00:00:{i:02d}", "git_sha": "a" * 40, "dirty": dirty,
            "environment": {"device": device}, "config": {"dry_run": dry_run}, "measured": m,
        }
        for i, m in enumerate(measured)
    ]  # fmt: skip
    text = "\n".join(json.dumps(line) for line in lines) + end
    (folder / "gpu_check.jsonl").write_text(text)
    return folder


def test_without_records_the_readme_says_so(tmp_path):
    assert "No GPU has run these kernels yet" in roofline.readme_block(tmp_path)


def test_a_run_is_taken_once_and_half_a_line_is_left_out(tmp_path, capsys):
    run = write(tmp_path / "run", TIMING, VERDICT, CHECK, end='\n{"name": "gpu')
    results = tmp_path / "results"
    assert roofline.take(run, results) == results / "h200"
    assert roofline.take(run, results) == results / "h200"
    taken = [row["measured"] for row in record.read("gpu_check", folder=results / "h200")]
    assert taken == [TIMING, VERDICT, CHECK]
    assert (run / "gpu_check.jsonl").read_text().endswith('"gpu'), "the run's own file stays"
    assert "0 of 3 records are new" in capsys.readouterr().out
    more = write(tmp_path / "second", TIMING, VERDICT, CHECK, TIMING | {"case": "V4"})
    roofline.take(more, results)
    assert len(record.read("gpu_check", folder=results / "h200")) == 4


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"dry_run": True}, "records of a dry run"),
        ({"dirty": True}, "uncommitted code"),
        ({"device": "cpu"}, "one NVIDIA GPU, not of cpu"),
        ({"device": "AMD Instinct MI300X"}, "one NVIDIA GPU"),
    ],
)
def test_what_is_no_result_is_not_taken(how, said, tmp_path):
    run = write(tmp_path / "run", TIMING, **how)
    with pytest.raises(ValueError, match=said):
        roofline.take(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_nothing_to_take_is_said(tmp_path):
    with pytest.raises(SystemExit, match="error: there is no "):
        roofline.main(["--take", str(tmp_path)])
    (tmp_path / "gpu_check.jsonl").write_text("")
    with pytest.raises(SystemExit, match="is empty"):
        roofline.main(["--take", str(tmp_path)])


def test_the_readme_says_what_records_hold(tmp_path):
    folder = write(tmp_path / "h200", TIMING, VERDICT, CHECK)
    with pytest.raises(ValueError, match=r"run python -m experiments\.gpu_check\.roofline"):
        roofline.readme_block(tmp_path)
    (folder / "roofline.png").touch()
    block = roofline.readme_block(tmp_path)
    assert "| S1, selected FLOPs | 651 | 640 | TFLOPS | True |" in block
    assert "![NVIDIA H200: " in block
    assert "1 of 1 checks of values right; commit aaaaaaaaaa, 2027-01-01" in block


def test_wrong_values_stand_in_the_readme(tmp_path):
    """And a run that was cut off before any timing needs no picture."""
    again = CHECK | {"outcome": "WRONG"}
    other = CHECK | {"check": "S1", "outcome": "FAILED"}
    write(tmp_path / "h200", CHECK, again, other, CHECK | {"check": "V4"})
    block = roofline.readme_block(tmp_path)
    assert "![" not in block
    assert "No target was measured" in block
    assert "1 of 3 checks of values right; **64x64: mosaic_gpu: WRONG**; **S1: FAILED**" in block


def test_taking_fills_the_readme_and_draws(tmp_path, monkeypatch, capsys):
    filled = []
    monkeypatch.setattr(readme_tables, "main", filled.append)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    roofline.main(["--take", str(write(tmp_path / "run", TIMING))])
    assert filled == [readme_tables.Config()]
    assert (tmp_path / "results" / "h200" / "roofline.png").stat().st_size > 10_000
    assert "| S1 | forward | mosaic_gpu |" in capsys.readouterr().out
