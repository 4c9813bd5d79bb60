"""Every shipped Mosaic kernel, compiled at full size for an H200 on a machine that has none.

On a jax that is too old for the kernels, what is tested is that they say so.
"""

import functools
import itertools

import jax
import pytest

from experiments.kernel_resources import __main__ as command
from experiments.kernel_resources import (
    deviceless,
    facts,
    hazards,
    known_faults,
    production,
    shipped_kernels,
)
from experiments.kernel_resources.deviceless import compile_for_h200

TOYS = "tests.experiments.kernel_resources.toys:cases"
OLD = jax.__version_info__ < (0, 11, 2)
needs_kernels = pytest.mark.skipif(OLD, reason="see test_an_old_jax_is_refused")


@pytest.mark.skipif(not OLD, reason="this jax has the kernels")
@pytest.mark.parametrize(
    "use",
    [
        lambda: list(shipped_kernels.shipped()),
        lambda: compile_for_h200(TOYS),
        lambda: list(production.ours()),
    ],
)
def test_an_old_jax_is_refused(use):
    with pytest.raises(NotImplementedError, match=r"0\.11\.2"):
        use()


@functools.cache
def compiled(part: str, *names: str):
    """Cases of a part by name, compiled once in this process."""
    done = compile_for_h200(command.PARTS[part], *names, timeout_s=3600)
    assert [case.name for case in done] == list(names)
    return done


def shipped(module: str, head_dim: int) -> tuple[str, ...]:
    return tuple(
        name for name, *_ in shipped_kernels.of_module(module) if f", D {head_dim}," in name
    )


QUICK = ("S1, attention", "S1, block_mass")


def problems() -> list:
    """Each full-size problem; most are slow."""
    names = [] if OLD else [name for name, *_ in production.ours()]
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


def problem(name: str):
    """One of them, compiled; the quick ones share a process."""
    done = compiled("problems", *(QUICK if name in QUICK else (name,)))
    return next(case for case in done if case.name == name)


@needs_kernels
def test_faults_are_found_in_code_that_really_has_them():
    toys = {case.name: case for case in compile_for_h200(TOYS)}
    assert toys["sound"].faults() == []
    (sound,) = toys["sound"].kernels
    assert (sound.wgmma, sound.tma, sound.threads) == (4, 3, 128)
    assert sound.smem_bytes == 3 * 64 * 64 * 2 + 2 * 8  # three tiles, two barriers
    assert sound.checked.under_products > 0
    spilling = " and ".join(toys["spills"].faults())
    assert "spills" in spilling
    assert "serialised" in spilling
    assert "1 waits for wgmma injected" in spilling
    assert "exceeds available shared memory" in toys["too_large"].error
    assert ["has no" in fault for fault in toys["plain_copy"].faults()] == [True, True]
    assert [kernel.faults() for kernel in toys["two"].kernels] == [[], []]
    assert toys["no_kernel"].faults() == ["no_kernel holds no Mosaic kernel"]


@needs_kernels
@pytest.mark.parametrize("head_dim", [128, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", shipped_kernels.modules())
def test_shipped_kernels_are_sound_and_recorded(module, head_dim):
    names = shipped(module, head_dim)
    assert names
    # Those of all modules share a process.
    every = itertools.chain(*(shipped(m, head_dim) for m in shipped_kernels.modules()))
    done = [case for case in compiled("shipped", *every) if case.name in names]
    assert not known_faults.unexpected(done), "\n".join(known_faults.unexpected(done))
    rows = [row for case in done for row in facts.of(case)]
    changed = facts.differences(rows, "shipped")
    assert not changed, "run python -m experiments.kernel_resources:\n" + "\n".join(changed)


@needs_kernels
@pytest.mark.parametrize("name", problems())
def test_kernels_of_full_size_problems_are_sound_and_recorded(name):
    done = [problem(name)]
    assert not known_faults.unexpected(done), "\n".join(known_faults.unexpected(done))
    changed = facts.differences(facts.of(done[0]), "problems")
    assert not changed, "run python -m experiments.kernel_resources:\n" + "\n".join(changed)


@needs_kernels
@pytest.mark.parametrize("name", problems())
def test_without_a_wait_registers_of_products_are_touched_too_early(name):
    for kernel in problem(name).kernels:
        code = kernel.code
        assert kernel.checked.under_products > 0
        waits = [i for i, one in enumerate(code.instructions) if one.under_way is not None]
        found = [len(hazards.check(code.without(i)).hazards) for i in waits]
        # Not of every one: where ptxas has added a wait, another of the same group does not matter.
        assert max(found) > 20, f"{kernel.name}: {dict(zip(waits, found, strict=True))}"


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("module", shipped_kernels.modules())
def test_every_configuration_that_a_mask_can_choose_is_sound(module):
    names = [name for name, *_ in shipped_kernels.of_module(module, everything=True)]
    done = compile_for_h200(
        "experiments.kernel_resources.shipped_kernels:everything", *names, timeout_s=3600
    )
    assert [case.name for case in done] == names
    assert not known_faults.unexpected(done), "\n".join(known_faults.unexpected(done))


@needs_kernels
@pytest.mark.slow
def test_the_kernels_of_jax_are_recorded():
    done = compile_for_h200(command.PARTS["jax"])
    rows = [row for case in done for row in facts.of(case, jax=True)]
    assert facts.differences(rows, "jax") == []


@needs_kernels
def test_the_model_says_what_is_recorded():
    case = problem("S1, attention")
    rows = {row["measured"]["kernel"]: row["measured"] for row in facts.newest("problems")
            if row["measured"]["case"] == case.name}  # fmt: skip
    (row,) = [row for row in facts.of(case) if row["kernel"] == "dkv"]
    (kernel,) = [kernel for kernel in case.kernels if kernel.name.endswith("dkv")]
    assert facts.shares(kernel) == {key: rows["dkv"][key] for key in facts.shares(kernel)}
    assert row["instructions"] == rows["dkv"]["instructions"]


@needs_kernels
def test_records_hold_what_is_shipped_and_nothing_else():
    for part, listed in (
        ("shipped", shipped_kernels.shipped()), ("problems", production.ours()), ("jax", production.of_jax()),
    ):  # fmt: skip
        recorded = {row["measured"]["case"] for row in facts.newest(part)}
        assert recorded == {name for name, *_ in listed}, (
            "run python -m experiments.kernel_resources"
        )


@needs_kernels
def test_every_known_fault_is_of_some_case():
    listed = itertools.chain(shipped_kernels.everything(), production.ours())
    assert known_faults.stale(name for name, *_ in listed) == []


def test_absent_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv(deviceless.VARIABLE, str(tmp_path))
    monkeypatch.setattr(deviceless.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"no jax_cuda13_plugin; `make test`"):
        deviceless.packages()
    (tmp_path / "jax_cuda13_plugin").mkdir()
    with pytest.raises(FileNotFoundError, match="nvidia-cuda-nvdisasm"):
        deviceless.packages()
    tool = tmp_path / "nvidia" / "cu13" / "bin" / "nvdisasm"
    tool.parent.mkdir(parents=True)
    tool.touch()
    assert deviceless.packages() == [str(tmp_path)]


@needs_kernels
def test_a_process_that_fails_or_takes_too_long_is_an_error():
    with pytest.raises(RuntimeError, match="no_such_module"):
        compile_for_h200("no_such_module:cases")
    with pytest.raises(RuntimeError, match="more than"):
        compile_for_h200(TOYS, timeout_s=0.5)


@needs_kernels
@pytest.mark.long
@pytest.mark.parametrize(
    "names",
    [
        ("windows of heads", "heads that are added", "ring", "gradient"),
        pytest.param(("dense", "one window", "search"), marks=pytest.mark.slow),
    ],
)
def test_attention_on_several_gpus_compiles(names):
    module = "tests.experiments.kernel_resources.sharded"
    axes = {"cfg": 2, "seq": 4}
    done = compile_for_h200(f"{module}:cases", *names, dump=False, axes=axes)
    found = {case.name: case for case in done}
    assert found.keys() == set(names)
    assert not {name: case.error for name, case in found.items() if case.error}
    share = 12 * 16 * 16 // 4 * 128 * 2  # bytes of a head
    exchanged = {"dense": 8, "one window": 40, "windows of heads": 40, "heads that are added": 8}
    for name in exchanged.keys() & found.keys():
        heads = exchanged[name]
        assert found[name].collectives["all-to-all"]["bytes"] == 4 * heads * share, name
    assert "ring" not in found or "all-to-all" not in found["ring"].collectives
