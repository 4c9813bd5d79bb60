"""Every shipped Mosaic kernel, compiled for an H200 on a machine that has none.

On a jax that is too old for the kernels, what is tested is that they say so.
"""

import jax
import pytest

from experiments.kernel_resources import __main__ as tables
from experiments.kernel_resources import cases, deviceless
from experiments.kernel_resources.deviceless import Compiled, compile_for_h200

TOYS = "tests.experiments.kernel_resources.toys:cases"
OLD = jax.__version_info__ < (0, 11, 2)


def refuses_all() -> bool:
    with pytest.raises(NotImplementedError, match=r"0\.11\.2"):
        list(cases.shipped())
    return True


def test_faults_are_found_in_code_that_really_has_them():
    if OLD:
        with pytest.raises(NotImplementedError, match=r"0\.11\.2"):
            compile_for_h200(TOYS)
        return
    toys = {case.name: case for case in compile_for_h200(TOYS)}
    assert toys["sound"].faults() == []
    (sound,) = toys["sound"].kernels
    assert (sound.wgmma, sound.tma, sound.threads) == (4, 3, 128)
    assert sound.smem_bytes == 3 * 64 * 64 * 2 + 2 * 8  # three tiles, two barriers
    spilling = " and ".join(toys["spills"].faults())
    assert "spills" in spilling
    assert "serialised" in spilling
    assert "exceeds available shared memory" in toys["too_large"].error
    assert ["has no" in fault for fault in toys["plain_copy"].faults()] == [True, True]
    assert [kernel.faults() for kernel in toys["two"].kernels] == [[], []]
    assert toys["no_kernel"].faults() == ["no_kernel holds no Mosaic kernel"]


@pytest.mark.parametrize("head_dim", [128, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", cases.modules())
def test_shipped_kernels_are_sound_and_their_table_is_up_to_date(module, head_dim):
    if OLD:
        with pytest.raises(NotImplementedError, match=r"0\.11\.2"):
            cases.of_module(module)
        return
    names = [name for name, *_ in cases.of_module(module) if f", D {head_dim}," in name]
    assert names
    compiled = compile_for_h200("experiments.kernel_resources.cases:shipped", *names)
    assert [case.name for case in compiled] == names
    wanted = tables.table(compiled).splitlines()  # raises on spills and the other faults
    text = tables.BLOCK.search(tables.README.read_text(encoding="utf-8"))[0]
    shown = [line for line in text.splitlines() if set(line) & set("0123456789")]
    absent = [line for line in wanted[2:] if line not in shown]
    assert not absent, "run python -m experiments.kernel_resources; not in the README:\n" + (
        "\n".join(absent)
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", cases.modules())
def test_every_configuration_that_a_mask_can_choose_is_sound(module):
    names = [name for name, *_ in cases.of_module(module, everything=True)]
    compiled = compile_for_h200(
        "experiments.kernel_resources.cases:everything", *names, timeout_s=3600
    )
    assert [case.name for case in compiled] == names
    faults = [f"{case.name}: {fault}" for case in compiled for fault in case.faults()]
    assert not faults, "\n".join(faults)


def test_the_table_lists_nothing_that_is_not_shipped():
    if OLD:
        assert cases.modules() == [] or refuses_all()
        return
    text = tables.BLOCK.search(tables.README.read_text(encoding="utf-8"))[0]
    shown = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    names = {name for name, *_ in cases.shipped()}
    stale = {name for name in shown - {"kernel"} if not name.startswith(tuple(names or {"\0"}))}
    assert not stale, "run python -m experiments.kernel_resources"


def test_a_table_is_not_made_of_faulty_kernels():
    with pytest.raises(ValueError, match="broken: does not lower"):
        tables.table([Compiled("broken", error="does not lower")])


def test_a_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match="add it"):
        tables.filled("# nothing here", "table")


def test_absent_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv(deviceless.VARIABLE, str(tmp_path))
    monkeypatch.setattr(deviceless.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="make test"):
        deviceless.packages()


def test_a_process_that_fails_or_takes_too_long_is_an_error():
    if OLD:
        with pytest.raises(NotImplementedError, match=r"0\.11\.2"):
            compile_for_h200("no_such_module:cases")
        return
    with pytest.raises(RuntimeError, match="no_such_module"):
        compile_for_h200("no_such_module:cases")
    with pytest.raises(RuntimeError, match="more than"):
        compile_for_h200(TOYS, timeout_s=0.5)


def test_attention_on_several_gpus_compiles():
    if OLD:
        assert refuses_all()
        return
    module = "tests.experiments.kernel_resources.sharded"
    axes = {"cfg": 2, "seq": 4}
    found = {c.name: c for c in compile_for_h200(f"{module}:cases", dump=False, axes=axes)}
    assert not {name: case.error for name, case in found.items() if case.error}
    share = 12 * 16 * 16 // 4 * 128 * 2  # bytes of a head
    exchanged = {"dense": 8, "one window": 40, "windows of heads": 40, "heads that are added": 8}
    for name, heads in exchanged.items():
        assert found[name].collectives["all-to-all"]["bytes"] == 4 * heads * share, name
    assert "all-to-all" not in found["ring"].collectives
