"""The steps come in the right order, and each is a command that `gpu_check` takes."""

import dataclasses
import types

import pytest

from experiments.gpu_check import checks, flags, small, steps, summary, tune
from experiments.gpu_check.flags import GO_ON
from experiments.gpu_check.limited_jobs import Job, Result
from experiments.gpu_check.shapes import CASES
from pallas_kernels.block_mass import mosaic_gpu as mass
from pallas_kernels.block_sparse_attention import mosaic_gpu as forward
from pallas_kernels.block_sparse_attention import mosaic_gpu_vjp as backward

SEEDED = flags.Config(seed=5)


def test_the_most_important_comes_first():
    names = [step.name for step in steps.CHECK]
    assert names[:11] == [
        "machine", "small", "S1_values", "ceilings", "S1", "V4", "S6", "S1_backward", "block_mass", "reorder",
        "profile",
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    limits = [step.limit_s for step in steps.CHECK[:11]]
    assert sum(limits[:5]) < 6 * 60  # whatever hangs, S1 is timed within 8 minutes
    assert sum(limits) < 12 * 60
    tuned = [step.name for step in steps.TUNE]
    assert tuned[: 1 + len(tune.CANDIDATES)] == ["machine", *tune.CANDIDATES]
    assert tuned[-4:] == ["D1", "S1_layer", "hunyuan_sta", "hunyuan_dense"]


def test_everything_is_in_some_step():
    values = [name for step in steps.CHECK if step.part == "check" for name in step.case]
    assert set(values) == {*checks.SMALL, *checks.FULL_SIZE}
    timed = {name for step in steps.CHECK if step.part == "forward" for name in step.case}
    assert timed == {name for name in CASES if not name.startswith("D1")}
    assert {step.part for step in (*steps.CHECK, *steps.TUNE)} == set(flags.PARTS)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("step", [*steps.CHECK, *steps.TUNE], ids=lambda step: step.name)
def test_every_step_is_a_command(step, dry_run):
    config = dataclasses.replace(SEEDED, dry_run=dry_run, dtype=("float16",), torch=True, rounds=3)
    parsed = flags.parse(steps.flags(step, config))
    assert parsed.part == (step.part,)
    assert parsed.case == step.case[: 1 if dry_run else None]
    assert set(parsed.case) <= {*checks.SMALL, *CASES, *tune.CANDIDATES, *tune.METHODS}
    assert (parsed.dtype, parsed.seed, parsed.torch, parsed.dry_run) == (("float16",), 5, True, dry_run)  # fmt: skip
    assert parsed.implementation == (("reference",) if dry_run else ("mosaic_gpu", "cudnn"))
    assert parsed.rounds == (1 if dry_run else 3)
    assert parsed.record == (step.part != "launch")


def test_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/x")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(steps.shutil, "which", lambda name: None)
    jobs = {job.name: job for job in steps.jobs(SEEDED, tmp_path / "r.jsonl")}
    assert [*jobs] == [step.name for step in steps.CHECK]
    flags_of = {name: job.environment.get("XLA_FLAGS", "") for name, job in jobs.items()}
    quick = {name for name, given in flags_of.items() if "autotune_level=0" in given}
    assert quick == {"small", "S1_values", "other_values"}
    assert flags_of["small"].startswith("--xla_dump_to=/x ")
    (cache,) = {job.environment["JAX_COMPILATION_CACHE_DIR"] for job in jobs.values()}
    assert not cache.startswith(str(tmp_path))
    assert {job.environment["OUT"] for job in jobs.values()} == {str(tmp_path)}
    assert jobs["small"].command(100)[-2:] == ["--budget-s", "70"]
    assert jobs["profile"].command(60)[0] == "ncu"
    assert {name: job.absent for name, job in jobs.items() if job.absent} == {
        "profile": "there is no ncu"
    }
    dry = [job.name for job in steps.jobs(dataclasses.replace(SEEDED, dry_run=True), tmp_path / "r")]  # fmt: skip
    assert dry[:4] == ["machine", "never_returns", "breaks", "small"]


def test_steps_are_chosen_by_name():
    config = flags.Config(step=("S6", "small"))
    assert [step.name for step in steps.wanted(config)] == ["small", "S6"]
    with pytest.raises(ValueError, match="no step is called S9; --step takes machine, small"):
        steps.wanted(flags.Config(step=("S9",)))
    with pytest.raises(ValueError, match="no step is called small"):
        steps.wanted(flags.Config(step=("small",), tune=True))


def test_small_checks_begin_with_bfloat16_of_128_channels():
    """One check of each kernel comes before any in another precision."""
    fake = types.SimpleNamespace(
        config=flags.Config(part=("check",), case=steps.EACH_KERNEL),
        on_gpu=True,
        seed=0,
        implementations=lambda operation: ["mosaic_gpu"],
    )
    work = [(case, what) for case, (what, _) in checks._small(fake) if case in steps.EACH_KERNEL]
    assert [case for case, _ in work[:5]] == [*steps.EACH_KERNEL]
    assert all("bfloat16, D 128" in what for _, what in work[:5])
    assert len(work) == 4 * 5
    operations = {small.PROBLEMS[name].operation for name in steps.EACH_KERNEL}
    assert operations == {"block_sparse_attention", "dense_attention", "block_mass"}


@pytest.mark.parametrize("name", tune.CANDIDATES)
def test_candidates_fit_and_differ(name):
    candidate = tune.CANDIDATES[name]
    before = candidate.configure("bfloat16")
    with tune.measured(candidate.table("bfloat16")):
        now = candidate.configure("bfloat16")
    assert now != before
    assert candidate.configure("bfloat16") == before
    of = {"block_mass": mass, "block_sparse_attention": forward}.get(candidate.kernel, backward)
    assert before == of.heuristics(*candidate.geometry) or of is mass
    problem = small.PROBLEMS[candidate.check]
    assert (problem.block_q, problem.block_kv) == candidate.geometry[1:]  # the table applies to it


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--minutes", "0"], "--minutes 0.0 must be a positive number"),
        (["--minutes", "nan"], "must be a positive number"),
        (["--minutes", "-3"], "must be a positive number"),
        (["--minutes", "8", "--part", "check"], "leave one or the other out"),
        (["--tune", "--part", "check"], "leave one or the other out"),
        (["--step", "S1", "--part", "check"], "leave one or the other out"),
        (["--case", "S1"], "--case chooses problems of a --part"),
        (["--no-record"], "steps always record"),
        (["--part", "everything"], "invalid choice"),
    ],
)
def test_flags_that_contradict_each_other(given, said, capsys):
    with pytest.raises(SystemExit):
        flags.parse(given)
    assert said in capsys.readouterr().err


def _result(name, outcome, output="", records=(), absent=""):
    job = Job(name=name, limit_s=60, command=lambda _: [], absent=absent)
    seconds = 0.0 if outcome == "no time" else 3.0
    times = {"seconds": seconds, "limit_s": 20 * seconds}
    return Result(job=job, outcome=outcome, records=records, output=output, **times)


def test_the_summary_says_what_became_of_each_and_what_is_next():
    wrong = b'{"measured": {"part": "check", "check": "64x64: mosaic_gpu", "outcome": "WRONG", "result": "out"}}'
    results = [
        _result("machine", "right"),
        _result("small", "right", f"a\n{GO_ON}--part check --case 128x128 --seed 5\n"),
        _result("S1_values", "wrong", records=(wrong,)),
        _result("V4", "cut off"),
        _result("S6", "no time"),
        _result("profile", "not here", absent="there is no ncu"),
    ]
    text = summary.text(results, seconds=61, minutes=8, again="--minutes 8")
    for line in (
        "small                right so far",
        "V4                   cut off",
        "S6                   no time             -    60",
        "61 s of 480",
        "S1_values: WRONG 64x64: mosaic_gpu: out",
        "values are wrong in S1_values",
        "python -m experiments.gpu_check --part check --case 128x128 --seed 5",
        "python -m experiments.gpu_check --minutes 8 --step V4 S6\n",
        "roofline --take",
    ):
        assert line in text
    assert "--tune" not in text
    assert "--tune --minutes 8" in summary.text(results[:1], seconds=9, minutes=8, again="--minutes 8")  # fmt: skip
    assert [summary.is_expected(result) for result in results] == [True, True, False, False, True, True]  # fmt: skip


def test_being_cut_off_by_the_end_of_the_budget_is_no_fault():
    cut = _result("V4", "cut off")
    assert not summary.is_expected(cut)
    assert summary.is_expected(dataclasses.replace(cut, limit_s=20.0))


def test_planted_faults_must_turn_out_as_planned():
    assert summary.is_expected(_result("never_returns", "cut off"))
    assert not summary.is_expected(_result("never_returns", "right"))
    assert summary.is_expected(_result("breaks", "failed"))
    assert not summary.is_expected(_result("breaks", "cut off"))
