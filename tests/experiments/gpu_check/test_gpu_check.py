"""`make gpu-check` on a machine without a GPU: the dry run works, anything else says why not."""

import importlib.machinery
import sys
import types

import jax
import numpy as np
import pytest

from experiments import record
from experiments.gpu_check import __main__ as gpu_check
from experiments.gpu_check import (
    checks,
    flags,
    parts,
    programs,
    roofline,
    session,
    small,
    torch_baselines,
    tune,
)
from experiments.gpu_check.shapes import CASES
from pallas_kernels import BlockMask
from pallas_kernels.block_sparse_attention import api
from sparsevdit_jax import VideoGrid

DRY = ["--dry-run", "--rounds", "1", "--window-ms", "1", "--seed", "5"]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where this test's records go."""
    monkeypatch.setenv("OUT", str(tmp_path))
    flags.folder.cache_clear()
    yield tmp_path
    flags.folder.cache_clear()


def test_every_part_runs_and_records(folder, capsys):
    cases = ["S1", "D1_512_64", *checks.IN_DRY_RUNS, "mass_stages", "sta"]
    # `reference` compiles in a quarter of the time that `xla` takes, and what is done with either is the same.
    how = ["--implementation", "reference", "--part", *flags.PARTS, "--case", *cases]
    gpu_check.main([*DRY, *how])
    printed = capsys.readouterr().out
    rows = [row["measured"] for row in record.read("gpu_check", folder=folder)]
    assert {row["part"] for row in rows} == set(flags.PARTS) - {"launch"}
    assert "S1: reference launched once" in printed
    timings = [row for row in rows if "latency_ms" in row]
    assert all(row["latency_ms"] > 0 and row["fastest_ms"] <= row["slowest_ms"] for row in timings)
    forward = {r["candidate"]: r for r in timings if r["part"] == "forward"}
    assert set(forward) == {"reference", "reference, lists by head", "dense reference", "reorder"}
    sparse, dense = forward["reference"], forward["dense reference"]
    assert dense["selected_flops"] * sparse["density"] == pytest.approx(sparse["selected_flops"])
    assert sparse["dense_equivalent_tflops"] == pytest.approx(
        sparse["rate_tflops"] / sparse["density"]
    )
    backward = [row for row in timings if row["part"] == "backward" and row["case"] == "S1"]
    assert [row["candidate"] for row in backward] == ["reference"]
    assert backward[0]["selected_flops"] == 2.5 * sparse["selected_flops"]
    assert {"STA layer", "AdaSpa layer, search", "AdaSpa search and selection"} <= {
        row["candidate"] for row in timings if row["part"] == "layer"
    }
    tuned = {row["candidate"]: row for row in timings if row["part"] == "tune"}
    assert set(tuned) == {"in use", "mass_stages"}
    assert tuned["in use"]["table"] == {"block_mass,128,128,128,bfloat16": {"stages": 2}}
    (step,) = [row for row in timings if row["part"] == "denoise"]
    assert (step["candidate"], step["case"]) == ("denoising step, sta", "hunyuanvideo")
    outcomes = [row["outcome"] for row in rows if "check" in row]
    assert len(outcomes) >= 10  # the machine, four small problems, S1 with its order, a candidate
    assert set(outcomes) == {"right"}
    dense_backward = [r for r in timings if r["case"] == "D1_512_64" and r.get("direction")]
    assert [row["candidate"] for row in dense_backward] == ["dense reference"]
    verdicts = {row["verdict"]: row for row in rows if "verdict" in row}
    assert len([name for name in verdicts if name.startswith("S1")]) == 4
    assert "MISSED" in printed  # a CPU does not reach a Hopper's targets, and that is said
    roofline.main(["--folder", str(folder)])
    assert (folder / "roofline.png").stat().st_size > 10_000
    assert "| S1 | forward | reference | B1 H2 L864 D128 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="records of a dry run"):
        roofline.main(["--take", str(folder)])


def test_steps_run_within_their_minutes(folder, capsys):
    gpu_check.main(["--dry-run", "--minutes", "3", "--step", "machine", "reorder", "--seed", "7"])
    printed = capsys.readouterr().out
    outcomes = dict(line.split()[:2] for line in printed.partition("records\n")[2].splitlines()[:4])
    assert outcomes == {"machine": "right", "never_returns": "cut", "breaks": "failed", "reorder": "right"}  # fmt: skip
    rows = record.read("gpu_check", folder=folder)
    assert {row["measured"]["part"] for row in rows} == {"machine", "reorder"}
    assert {row["config"]["seed"] for row in rows} == {7}
    assert "of 180" in (folder / "gpu_check.txt").read_text()
    assert "ZeroDivisionError" in (folder / "gpu_check.log").read_text()


def test_steps_end_at_once_without_time_or_names(folder, capsys):
    gpu_check.main(["--dry-run", "--minutes", "0.01"])
    printed = capsys.readouterr().out
    assert printed.count("no time") >= 2 * 18
    assert not (folder / "gpu_check.jsonl").exists()
    with pytest.raises(SystemExit, match="no step is called S9"):
        gpu_check.main(["--dry-run", "--step", "S9"])


def test_uncommitted_code_is_refused_before_any_step(folder, monkeypatch):
    monkeypatch.setattr(record, "git_state", lambda: ("a" * 40, [" M a.py"]))
    with pytest.raises(SystemExit, match=r"error: the tree differs.*--allow-dirty"):
        gpu_check.main(["--minutes", "8"])
    assert not list(folder.iterdir())


def test_a_wrong_kernel_fails_the_run(folder, monkeypatch, capsys):
    right = api.IMPLEMENTATIONS["xla"]

    def wrong(*args, **options):
        out, lse = right(*args, **options)
        return out.at[:, -1].multiply(1.5), lse

    monkeypatch.setitem(api.IMPLEMENTATIONS, "xla", wrong)
    key, rng = jax.random.key(0), np.random.default_rng(0)
    here = session.Session(flags.parse([*DRY, "--no-record", "--part", "check"]))
    problem = small.Sparse(16, 16, rows=2, columns=2, heads=1)
    here.attempt("a kernel", lambda: problem.check("xla", "float32", 16, key, rng))
    assert (len(here.failures), here.exit_code) == (1, flags.WRONG)
    assert "WRONG   a kernel: ArithmeticError: out" in capsys.readouterr().out


def test_exit_codes_tell_wrong_values_from_programs_that_break(folder, monkeypatch, capsys):
    def ends(problem):
        monkeypatch.setattr(small, "orders", problem)
        with pytest.raises(SystemExit) as ended:
            gpu_check.main([*DRY, "--part", "check", "--case", "order", "--no-record"])
        return ended.value.code

    def wrong(*_):
        raise ArithmeticError("off by 2")

    def broken(*_):
        raise RuntimeError("out of memory")

    assert ends(wrong) == flags.WRONG
    assert ends(broken) == flags.FAILED
    assert "1 failed:\ntoken orders" in capsys.readouterr().err


def test_one_of_our_candidates_that_breaks_is_a_failure(folder, capsys):
    def breaks(calls):
        raise RuntimeError("illegal address")

    def refuses(calls):
        raise NotImplementedError("needs jax_triton")

    here = session.Session(flags.parse([*DRY, "--part", "forward"]))
    here.begin("forward")
    timers = {"mosaic_gpu": breaks, "triton": refuses, "dense cudnn": breaks}
    here.race(CASES["V1"].small(), 0.1, timers, {})
    assert here.failures == ["V1, mosaic_gpu: RuntimeError: illegal address"]
    assert here.exit_code == flags.FAILED
    rows = [row["measured"] for row in record.read("gpu_check", folder=folder)]
    assert [row["outcome"] for row in rows] == ["FAILED", "not here", "not here"]


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
    said = line.partition("go on with ")[2].split()  # what it says can be typed
    assert flags.parse(said).case[0] == "128x128"
    gpu_check.main([*DRY, "--part", "check", "--case", "order", "--no-record"])
    assert capsys.readouterr().out.count("  right   ") == 1


def test_an_unknown_problem_is_named():
    with pytest.raises(SystemExit, match=r"no problem is called S9; --case takes .*64x128"):
        gpu_check.main([*DRY, "--part", "check", "--case", "S1", "S9"])


def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--part", "check"])
    assert ended.value.code == flags.NO_GPU
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_flags():
    assert flags.parse([]) == flags.Config()
    parsed = flags.parse(["--part", "mass", "dense", "--torch", "--dtype", "float16", "bfloat16"])
    assert parsed.part == ("mass", "dense")
    assert (parsed.torch, parsed.timed_dtype, parsed.seed) == (True, "float16", None)
    assert flags.parse(["--tune", "--minutes", "7.5", "--head-dim", "64"]).head_dim == (64,)


def test_all_parts_have_work():
    elsewhere = {"machine", "check", "launch", "tune", "denoise"}
    assert {*parts.PARTS} | elsewhere == set(flags.PARTS)
    assert not elsewhere & {*parts.PARTS}
    assert {*tune.METHODS, *tune.CANDIDATES, *checks.SMALL}.isdisjoint(CASES)


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


def test_runs_have_folders_of_their_own(monkeypatch, folder):
    assert flags.folder(dry_run=False) == flags.folder(dry_run=True) == folder
    monkeypatch.delenv("OUT")
    flags.folder.cache_clear()
    assert flags.folder(dry_run=False).parent == record.ROOT / "out" / "gpu_check"
    assert not flags.folder(dry_run=True).is_relative_to(record.ROOT)
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
    here = session.Session(flags.parse([*DRY, "--part", "forward", "--no-record"]))
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
