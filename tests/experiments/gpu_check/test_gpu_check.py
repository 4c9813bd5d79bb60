"""`make gpu-check` on a machine without a GPU: the dry run works, anything else says why not."""

import importlib.machinery
import json
import sys
import types

import jax
import numpy as np
import pytest

from experiments import record
from experiments.gpu_check import __main__ as gpu_check
from experiments.gpu_check import checks, parts, programs, roofline, session, small, torch_baselines
from experiments.gpu_check.shapes import CASES
from pallas_kernels import BlockMask
from pallas_kernels.block_sparse_attention import api
from sparsevdit_jax import VideoGrid

DRY = ["--dry-run", "--rounds", "1", "--window-ms", "1", "--seed", "5"]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where this test's records go."""
    monkeypatch.setattr(session.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    return tmp_path


def test_every_part_runs_and_records(folder, capsys):
    gpu_check.main([*DRY, "--case", "S1", "D1_512_64", *checks.IN_DRY_RUNS, checks.INTERPRETED])
    printed = capsys.readouterr().out
    rows = [row["measured"] for row in record.read("gpu_check", folder=folder)]
    assert {row["part"] for row in rows} == set(session.PARTS)
    timings = [row for row in rows if "latency_ms" in row]
    assert all(row["latency_ms"] > 0 and row["fastest_ms"] <= row["slowest_ms"] for row in timings)
    forward = {r["candidate"]: r for r in timings if r["part"] == "forward"}
    assert set(forward) == {"xla", "xla, lists by head", "dense xla", "reorder"}
    sparse, dense = forward["xla"], forward["dense xla"]
    assert dense["selected_flops"] * sparse["density"] == pytest.approx(sparse["selected_flops"])
    assert sparse["dense_equivalent_tflops"] == pytest.approx(
        sparse["rate_tflops"] / sparse["density"]
    )
    (backward,) = [row for row in timings if row.get("direction") and row["candidate"] == "xla"]
    assert backward["selected_flops"] == 2.5 * sparse["selected_flops"]
    assert {"STA layer", "AdaSpa layer, search", "AdaSpa search and selection"} <= {
        row["candidate"] for row in timings if row["part"] == "layer"
    }
    outcomes = [row["outcome"] for row in rows if "check" in row]
    assert len(outcomes) >= 8  # four small problems, S1 with three operations and its order
    assert set(outcomes) == {"right"}
    dense_backward = [r for r in timings if r["case"] == "D1_512_64" and r.get("direction")]
    assert [row["candidate"] for row in dense_backward] == ["dense xla"]
    verdicts = {row["verdict"]: row for row in rows if "verdict" in row}
    assert len([name for name in verdicts if name.startswith("S1")]) == 4
    assert "MISSED" in printed  # a CPU does not reach a Hopper's targets, and that is said
    roofline.main(["--folder", str(folder)])
    assert (folder / "roofline.png").stat().st_size > 10_000
    assert "| S1 | forward | xla | B1 H2 L864 D128 |" in capsys.readouterr().out


def test_a_wrong_kernel_fails_the_run(folder, monkeypatch):
    right = api.IMPLEMENTATIONS["xla"]

    def wrong(q, k, v, mask, *, scale):
        out, lse = right(q, k, v, mask, scale=scale)
        return out.at[:, -1].multiply(1.5), lse

    monkeypatch.setitem(api.IMPLEMENTATIONS, "xla", wrong)
    with pytest.raises(SystemExit, match="checks failed") as problem:
        gpu_check.main([*DRY, "--part", "check", "--case", "V4"])
    assert "V4, float64" in str(problem.value)


def test_results_that_change_are_found():
    draws = iter(np.random.default_rng(0).random(2))

    def program(x):
        return jax.pure_callback(lambda x: x + np.float32(next(draws)), x, x)

    with pytest.raises(ArithmeticError, match="differs between two runs"):
        programs.twice(program, jax.numpy.ones(3))


def test_a_part_ends_in_time(folder, capsys):
    gpu_check.main([*DRY, "--part", "forward", "--budget-s", "0", "--no-record"])
    assert "out of time; go on with --part forward --case S1 S2" in capsys.readouterr().out
    assert not list(folder.iterdir())


def test_the_checks_end_in_time_and_go_on(folder, capsys):
    gpu_check.main([*DRY, "--part", "check", "--budget-s", "0", "--no-record"])
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "out of time" in line]
    assert line.startswith(
        "out of time; go on with --part check --case 128x128 dense_ragged mass_odd"
    )
    assert line.endswith("--seed 5")
    assert "right" not in printed
    flags = line.partition("go on with ")[2].replace(" S1", "").split()  # what it says can be typed
    assert session.parse(flags).case[0] == "128x128"
    gpu_check.main([*DRY, "--part", "check", "--case", "order", "--no-record"])
    assert capsys.readouterr().out.count("  right   ") == 1


def test_an_unknown_problem_is_named():
    with pytest.raises(SystemExit, match=r"no problem is called S9; --case takes .*64x128"):
        gpu_check.main([*DRY, "--case", "S1", "S9"])


def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU"):
        gpu_check.main(["--part", "check"])


def test_flags():
    assert session.parse([]) == session.Config()
    flags = session.parse(["--part", "mass", "dense", "--no-baselines", "--dtype", "float16"])
    assert flags.part == ("mass", "dense")
    assert (flags.baselines, flags.dtype, flags.seed) == (False, "float16", None)
    with pytest.raises(SystemExit):
        session.parse(["--part", "everything"])


def test_all_parts_have_work():
    assert {*parts.PARTS, "check"} == set(session.PARTS)


def test_torch_gets_the_same_blocks():
    keep = np.random.default_rng(0).random((1, 2, 3, 4)) < 0.5
    mask = BlockMask.from_dense(keep, block_q=384, block_kv=384)
    counts, lists = torch_baselines.finer_lists(mask, 128)
    assert counts.shape == (1, 2, 9)
    assert lists.shape == (1, 2, 9, 12)
    again = np.zeros((1, 2, 9, 12), bool)
    listed = np.arange(12) < counts[..., None]
    np.put_along_axis(again, lists, listed, -1)
    np.testing.assert_array_equal(again, keep.repeat(3, 2).repeat(3, 3))
    with pytest.raises(ValueError, match="cannot be cut"):
        torch_baselines.finer_lists(mask, 100)


def test_devices_have_folders_of_their_own(monkeypatch, folder):
    here = session.Session(session.parse([*DRY, "--no-record"]))
    here.config = session.Config()
    monkeypatch.delenv("OUT", raising=False)
    assert here.folder() == record.RESULTS / "cpu"
    monkeypatch.setenv("OUT", str(folder / "out"))
    assert here.folder() == folder / "out"
    assert CASES["S1"].small().name == "S1"


@pytest.fixture
def fake_torch(monkeypatch):
    """A torch without CUDA, and a flash_attn that does not import."""

    def no_gpu(*_, **__):
        raise AssertionError("Torch not compiled with CUDA enabled")

    class Broken(types.ModuleType):
        @property
        def flash_attn_func(self):
            raise ImportError("undefined symbol")

    def module(name, kind=types.ModuleType, **content):
        made = kind(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    backends = types.SimpleNamespace(CUDNN_ATTENTION=1, FLASH_ATTENTION=2)
    module("torch", bfloat16="bfloat16", randn=no_gpu, from_numpy=no_gpu, cuda=None)
    module("torch.nn")
    flex = module("torch.nn.attention.flex_attention")
    module("torch.nn.attention", SDPBackend=backends, sdpa_kernel=None, flex_attention=flex)
    module("torch.nn.functional", scaled_dot_product_attention=None)
    module("flash_attn", Broken)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_torch_that_cannot_run_is_not_here(fake_torch, backward, folder, capsys):
    case = CASES["V1"].small()
    timers = torch_baselines.dense(case, "bfloat16", backward=backward)
    timers |= torch_baselines.sparse(case.mask(), case, "bfloat16", backward=backward)
    assert set(timers) == {"torch SDPA, cuDNN", "torch SDPA, flash", "flash_attn", "FlexAttention"}
    here = session.Session(session.parse([*DRY, "--no-record"]))
    assert here.race(case, 0.1, timers, {}) == {}
    printed = capsys.readouterr().out
    assert printed.count("not here: AssertionError: Torch not compiled with CUDA enabled") == 3
    assert "not here: ImportError: undefined symbol" in printed


def test_a_wrong_order_of_tokens_is_found(monkeypatch):
    right = small.TokenOrder.apply

    def wrong(self, x, axis=1):
        moved = right(self, x, axis)
        return moved.at[:, 1].set(moved[:, 0])

    key, grid = jax.random.key(0), VideoGrid(3, 4, 5)
    small.orders(grid, (2, 2, 2), 2, "float32", key)
    monkeypatch.setattr(small.TokenOrder, "apply", wrong)
    with pytest.raises(ArithmeticError, match="differs from itself"):
        small.orders(grid, (2, 2, 2), 2, "float32", key)


def test_the_readme_says_what_records_hold(tmp_path):
    assert "No GPU has run these kernels yet" in roofline.readme_block(tmp_path)
    row = {field: "" for field in record.FIELDS} | {"git_sha": "a" * 40, "time": "2027-01-01T00"}
    row["environment"] = {"device": "NVIDIA H200"}
    row["measured"] = {"part": "forward", "verdict": "S1, selected FLOPs", "value_ratio": 651.0,
                       "target_ratio": 640.0, "unit": "TFLOPS", "reached": True}  # fmt: skip
    folder = tmp_path / "h200"
    folder.mkdir()
    (folder / "gpu_check.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"run python -m experiments\.gpu_check\.roofline"):
        roofline.readme_block(tmp_path)
    (folder / "roofline.png").touch()
    block = roofline.readme_block(tmp_path)
    assert "| S1, selected FLOPs | 651 | 640 | TFLOPS | True |" in block
    assert "![NVIDIA H200: " in block
    assert "commit aaaaaaaaaa, 2027-01-01" in block
