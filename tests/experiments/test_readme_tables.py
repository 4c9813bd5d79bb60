import json
import re

import pytest

from experiments import readme_tables, record
from experiments.provenance import newest, provenance
from experiments.readme_tables import bench_table, closeness, demo_table, filled, status
from tests.test_architecture import FILES


def row(time="2026-01-01T00:00:00+00:00", sha="a" * 40, **measured):
    environment = dict(
        device="cpu", processor="CPU", num_cores=2, python="3.12", jax="0.11", flax="0.12"
    )
    config = dict(digit=3, seed=0, steps=30)
    return dict(name="demo", time=time, git_sha=sha, dirty=False, environment=environment,
                config=config, measured=measured)  # fmt: skip


@pytest.mark.parametrize(
    "page", readme_tables.TABLES, ids=lambda path: str(path.relative_to(record.ROOT))
)
def test_a_page_is_what_its_records_say(page):
    text = page.read_text(encoding="utf-8")
    assert filled(text, page) == text, "run python -m experiments.readme_tables"


def test_every_block_of_every_page_is_made_from_records():
    """A table that nobody fills would keep its numbers for good."""
    for page in (record.ROOT / path for path in FILES if path.suffix == ".md"):
        blocks = re.findall(r"^<!-- ([\w-]+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(blocks) == set(readme_tables.TABLES.get(page, {})), page


def test_a_machine_stands_once_with_all_its_commits():
    rows = [
        row(sha=sha * 40, time=f"2026-01-0{day}T00:00:00+00:00")
        for sha, day in zip("aba", "123", strict=True)
    ]
    other = row(sha="c" * 40)
    other["environment"]["processor"] = "Other"
    where = "CPU, 2 cores, Python 3.12, jax 0.11, flax 0.12"
    assert provenance(rows) == f"{where}; commits {'a' * 10}, {'b' * 10}, 2026-01-03"
    assert provenance([rows[0]]) == f"{where}; commit {'a' * 10}, 2026-01-01"
    assert provenance([*rows, other]).count("cores") == 2


def test_the_status_says_whether_a_gpu_has_run(tmp_path):
    assert "**not yet timed on a GPU**" in status(tmp_path)
    timed = row(kernel="S1")
    timed["environment"]["device"] = "NVIDIA H200"
    (tmp_path / "h200").mkdir()
    (tmp_path / "h200" / "gpu_check.jsonl").write_text(json.dumps(timed) + "\n")
    assert "they are timed on NVIDIA H200." in " ".join(status(tmp_path).split())


def test_the_sentence_on_closeness_names_every_sparse_method(tmp_path):
    rows = [
        row(method="Dense", density=1.0),
        row(method="STA", density=0.214, psnr_db=22.06),
        row(method="AdaSpa", density=0.206, psnr_db=28.61),
    ]
    (tmp_path / "demo.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert closeness(tmp_path).endswith("STA 22.1 dB, 0.21; AdaSpa 28.6 dB, 0.21.")


def test_the_last_record_of_a_kind_wins():
    rows = [row(a=1, x=1), row(a=2, x=2), row(a=1, x=3)]
    assert [r["measured"]["x"] for r in newest(rows, ("a",))] == [3, 2]


def test_the_demo_table_shows_the_last_run_only(tmp_path):
    same = dict(tokens=4104, dtype="float32", density=0.25, recall=0.5, ssim=1.0, attention_ms=10.0,
                step_ms=20.0, rounds=5)  # fmt: skip

    def speedups(median, low, high):
        return {
            f"{part}_{end}speedup": value
            for part in ("attention", "step", "run")
            for end, value in (("", median), ("low_", low), ("high_", high))
        }

    rows = [
        row(sha="b" * 40, method="old", psnr_db=1.0, attention_speedup=2.0, **same),
        row(method="Dense", **same),
        row(method="STA", psnr_db=21.26, **same, **speedups(2.0, 1.9, 2.1)),
        row(method="AdaSpa", psnr_db=20.0, **same, **speedups(1.7, 1.2, 2.9)),
        row(method="no range", psnr_db=19.0, **same, step_speedup=3.0),
    ]
    (tmp_path / "demo.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = demo_table(tmp_path)
    assert "old" not in table
    assert "| Dense | 0.250 | 0.500 | – | 1.000 | – | – | – |" in table
    one = "2.00 (1.90–2.10)"
    assert f"| STA | 0.250 | 0.500 | 21.3 | 1.000 | {one} | {one} | {one} |" in table
    assert "| 20.0 | 1.000 | faster | faster | faster |" in table
    assert "| 19.0 | 1.000 | – | – | – |" in table
    assert "4,104 tokens" in table
    assert "medians of 5 rounds" in table
    assert "a dense step takes 20 ms, its attention 10." in table
    assert "faster: than dense in every round" in table
    assert "unclear:" not in table


def test_the_bench_table_keeps_machines_apart(tmp_path):
    same = dict(tokens=4096, dtype="float32", direction="forward", density=0.125, rate_gflops=9.0,
                speedup=5.0, fraction_of_ideal=0.625)  # fmt: skip
    rows = [row(candidate="sparse", latency_ms=ms, **same) for ms in (1.0, 2.0, 3.0)]
    for r, processor in zip(rows, ("Fast", "Slow", "Slow"), strict=True):
        r["environment"]["processor"] = processor
        r["config"] = dict(heads=6, head_dim=64, block=128, repeats=7)
    (tmp_path / "bench_cpu.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = bench_table(tmp_path)
    assert table.index("| 1.0 |") < table.index("Fast, 2 cores") < table.index("| 3.0 |")
    assert "| 2.0 |" not in table  # measured again
    assert table.index("| 3.0 |") < table.index("Slow, 2 cores")


def test_a_missing_block_or_record_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"README\.md has no <!-- demo -->"):
        filled("no tables here", readme_tables.DEMO)
    with pytest.raises(FileNotFoundError, match="no records at"):
        demo_table(tmp_path)
    assert record.RESULTS.name == "results"
