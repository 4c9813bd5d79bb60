import json

import pytest

from experiments import readme_tables
from experiments.kernel_resources import facts
from experiments.kernel_resources.deviceless import Compiled
from experiments.kernel_resources.resources import Resources
from tests.experiments.kernel_resources.listings import (
    CLOSED,
    FROM_REGISTERS,
    PRODUCT,
    listing,
    wait,
)

LOOP = listing(
    "L_x_0:", PRODUCT, CLOSED, FROM_REGISTERS, wait(1), "MUFU.EX2 R1, R1", "FFMA R1, R1, R1, R2", "FADD R1, R1, R2",
    "FMNMX R1, R1, R2, PT", wait(0), "@P0 BRA `(.L_x_0)", "EXIT",
)  # fmt: skip


def kernel(name="block_mass", wgmma=3, **changes):
    numbers = dict(registers=168, spill_bytes=0, smem_bytes=1000, threads=384, tma=2, wgmma_serialised=False,
                   waits_injected=0, setmaxnreg_ignored=False, listing=LOOP)  # fmt: skip
    return Resources(name=name, wgmma=wgmma, **(numbers | changes))


def test_a_main_loop_is_counted():
    (row,) = facts.of(Compiled("S1, block_mass", (kernel(),)))
    assert (row["case"], row["kernel"], row["registers"]) == ("S1, block_mass", "block_mass", 168)
    assert row["products"] == "2 x N64, 1 x N64 of registers"
    assert row["waits"] == "1, 0"
    assert row["instructions"] == 10
    assert row["counts"] == {
        "exp2": 1, "multiply, add": 2, "max": 1, "to 16 bits": 0, "shuffles": 0, "other": 3,
    }  # fmt: skip
    assert (row["hazards"], row["under_products"]) == (0, 6)


def test_shares_are_of_all_assumptions():
    found = facts.shares(kernel())
    assert list(found) == ["lowest_share", "median_share", "highest_share"]
    assert 0 < found["lowest_share"] <= found["median_share"] <= found["highest_share"] <= 1


def test_kernels_of_jax_are_told_apart_by_their_products():
    kernels = kernel("anonymous", 24), kernel("anonymous", 20), kernel("entry", 32)
    rows = facts.of(Compiled("D1, JAX", kernels), jax=True)
    assert [row["kernel"] for row in rows] == ["dkv", "dq", "forward"]


@pytest.fixture
def folder(tmp_path):
    """Records of two runs; a forward kernel that is good enough, and a slow block_mass."""

    def row(sha, part, case, share, **measured):
        name = "block_sparse_attention" if "attention" in case else "block_mass"
        measured |= facts.of(Compiled(case, (kernel(name),)))[0] | {
            "part": part,
            "median_share": share,
        }
        measured |= {"lowest_share": 0.25, "highest_share": 1.0}
        return dict(
            name=facts.NAME,
            time="",
            git_sha=sha,
            dirty=False,
            environment={"python": "3.13", "jax": "0.11.2"},
            config={},
            measured=measured,
        )

    rows = [
        row("old", "shipped", "gone", 0.5),
        row("new", "shipped", "block_mass, D 64", 0.5),
        row("new", "problems", "S1, attention", 0.97),
        row("new", "problems", "S1, block_mass", 0.6),
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"{facts.NAME}.jsonl").write_text(text)
    return tmp_path


def test_tables_show_the_last_run(folder):
    table = facts.resources_table(folder)
    assert "gone" not in table
    assert (
        "| block_mass, D 64 | 168 | 0 | 0 | 1,000 | 384 | 3 | 2 | 10 | 0.50 (0.25–1.00) |" in table
    )


def test_what_misses_its_target_is_named(folder):
    table = facts.loops_table(folder)
    assert "| S1 | forward | 2 x N64, 1 x N64 of registers | 1, 0 | 10 |" in table
    assert "| 0.97 (0.25–1.00) | 0.95 |" in table
    assert "| 0.60 (0.25–1.00) | 0.85 |" in table
    assert "Below what is wanted: S1 block_mass. Python 3.13, jax 0.11.2; commit new" in table
    assert "Of 12 instructions that may be issued under a product, 0 touch its registers." in table


def test_no_kernel_misses_its_target():
    assert "Below what is wanted" not in facts.loops_table()


def test_differences_from_the_records_are_named(folder, monkeypatch):
    monkeypatch.setattr(facts, "newest", lambda part, read=facts.newest: read(part, folder))
    same = Compiled("S1, block_mass", (kernel(),))
    assert facts.differences(facts.of(same), "problems") == []
    changed = Compiled("S1, block_mass", (kernel(spill_bytes=8),))
    assert facts.differences(facts.of(changed), "problems") == [
        "S1, block_mass, block_mass: spill_bytes 0 -> 8"
    ]
    new = Compiled("S9, block_mass", (kernel(),))
    assert facts.differences(facts.of(new), "problems") == [
        "S9, block_mass, block_mass is not recorded"
    ]


def test_a_line_says_it_all():
    row = facts.of(Compiled("S1, block_mass", (kernel(),)))[0]
    line = facts.line(row | {"lowest_share": 0.1, "median_share": 0.2, "highest_share": 0.3})
    assert "S1, block_mass, block_mass: 168 registers, 0 bytes spilled, 0 waits injected" in line
    assert "exp2=1" in line
    assert line.endswith("tensor cores busy 0.20 (0.10 to 0.30)")


def test_the_tables_belong_to_a_page_of_the_kernels():
    assert set(readme_tables.TABLES[readme_tables.HOPPER]) == {"loops", "resources"}
