from experiments.kernel_resources import known_faults
from experiments.kernel_resources.deviceless import Compiled
from experiments.kernel_resources.known_faults import Known, unexpected

KNOWN = (Known(r"mass, fold=\d", "does not lower", "a reason"),)


def test_a_known_fault_passes_and_another_does_not():
    broken = Compiled("mass, fold=2", error="does not lower at all")
    assert unexpected([broken], KNOWN) == []
    assert unexpected([Compiled("mass", error="does not lower")], KNOWN) == ["mass: does not lower"]
    other = unexpected([Compiled("mass, fold=2", error="spills")], KNOWN)
    assert other[0] == "mass, fold=2: spills"


def test_an_entry_whose_fault_is_gone_fails():
    lines = unexpected([Compiled("mass, fold=2", error="spills")], KNOWN)
    assert "no longer 'does not lower'" in lines[1]
    assert "known_faults.py" in lines[1]


def test_entries_without_a_case_are_named():
    assert known_faults.stale(["mass", "mass, fold=22"], KNOWN) == [r"mass, fold=\d"]
    assert known_faults.stale(["mass, fold=3"], KNOWN) == []


def test_every_entry_has_its_reason():
    assert all(len(entry.reason) > 20 for entry in known_faults.KNOWN)
