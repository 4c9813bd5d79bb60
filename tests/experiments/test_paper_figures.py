"""Every published figure agrees with ours, but for the slips of print that we know."""

import json
import re

import numpy as np
import pytest

from experiments.command import run
from experiments.paper_figures import __main__ as command
from experiments.paper_figures.figure import Figure, Number, number
from experiments.paper_figures.others import axis_share, frames_sparsity
from experiments.paper_figures.rows import SYSTEMS, figures
from experiments.paper_figures.sparse_vdit import choose_mode, mode_losses
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.masks.blocks import band_width

SLIPS = {
    ("sta", "sparsity of NATTEN's windows, %", "(30, 41, 41)", "58.33"),
    ("sta", "tiled NATTEN, CUDA, (29, 41, 41)", "ms that MFU 4.04 % takes", "173.57"),
    ("sta", "end to end, PFLOPs (fitted line)", "tiled NATTEN (30, 41, 41)", "269.92"),
    ("sta", "end to end, PFLOPs (fitted line)", "Swin (30, 40, 40), trained", "283.08"),
    ("sta", "end to end, sparsity in %", "Swin (30, 40, 40), trained", "55.81"),
    ("sta", "released strategy, 50 steps", "leading full steps", "12"),
    ("sparse-vdit", "speed-up", "Sparse-vDiT, FP8 over SVG, Wan2.1", "1.78"),
    ("sparse-vdit", "FLOP reduction", "Wan2.1", "1.67"),
    ("others", "Swin: sparsity of windows, %", "(24, 32, 32)", "87.42"),
    ("others", "Swin: sparsity of windows, %", "(30, 40, 40)", "76.49"),
    ("others", "Swin: sparsity of windows, %", "(48, 64, 64)", "55.81"),
    ("others", "VSA: cubes", "(16, 28, 52)", "386"),
    ("others", "MonarchRT: effective sparsity, %", "blocks (15, 26)", "90"),
}

ROUNDING = {
    ("sta", "blocks, tile 4^3 in video 48^3, %", "tiled NATTEN, window 11: mixed", "7.17"),
    ("sta", "kernel, TFLOPs", "Swin (24, 32, 32)", "20.64"),
    ("sta", "kernel, MFU in %", "CLEAR r=16", "5.15"),
    ("sta", "kernel, MFU in %", "Swin (24, 32, 32)", "43.55"),
    ("sta", "kernel, MFU in %", "STA (18, 24, 24)", "58.79"),
    ("sta", "kernel, MFU in %", "Swin (48, 64, 64)", "57.46"),
    ("sta", "kernel, efficiency in %", "STA (18, 24, 24)", "94.09"),
    ("sta", "end to end, PFLOPs (fitted line)", "CLEAR r=32", "280.90"),
    ("sta", "end to end, PFLOPs (fitted line)", "Swin (48, 64, 64)", "283.11"),
    ("sta", "end to end, PFLOPs (fitted line)", "Swin (30, 40, 40)", "175.20"),
    ("sparse-vdit", "speed-up", "spatial window, CogVideoX1.5", "1.69"),
    ("sparse-vdit", "speed-up", "temporal window, CogVideoX1.5", "1.67"),
    ("sparse-vdit", "speed-up", "SVG, HunyuanVideo", "1.75"),
    ("others", "Radial Attention: speed-up", "Wan2.1, Radial", "1.77"),
}

COUNTS = {  # rows of each group, so that none is lost in silence
    "sta": {
        "sparsity of STA's windows, %": 20,
        "kept pairs of tiles": 12,
        "sparsity of search candidates, %": 5,
        "tokens": 4,
        "readers of a tile, Hunyuan (3, 3, 3)": 4,
        "sparsity of NATTEN's windows, %": 4,
        "blocks, tile 4^3 in video 48^3, %": 4,
        "kernel, TFLOPs": 11,
        "kernel, MFU in %": 12,
        "kernel, speed-up over FA3": 15,
        "kernel, efficiency in %": 2,
        "tiled NATTEN, CUDA, (29, 41, 41)": 3,
        "end to end, PFLOPs (fitted line)": 10,
        "end to end, speed-up": 12,
        "end to end, sparsity in %": 1,
        "released strategy, 50 steps": 5,
    },
    "adaspa": {
        "speed-up on HunyuanVideo": 5,
        "speed-up on CogVideoX1.5": 5,
        "cost in full attentions": 6,
        "schedule {10, 30} of 50": 4,
        "head-adaptive sparsity, base 0.8": 7,
        "head-adaptive sparsity, base 0.9": 7,
    },
    "sparse-vdit": {
        "speed-up": 18,
        "FLOP reduction": 3,
        "tokens": 3,
        "PFLOPs of attention": 6,
        "attention density implied by PFLOPs": 5,
        "search loss": 8,
    },
    "others": {
        "Swin: sparsity of windows, %": 3,
        "SVG: half width in frames": 4,
        "VSA: cubes": 3,
        "VSA: sparsity with 32 cubes, %": 2,
        "Efficient-vDiT: sparsity in blocks of 128, %": 9,
        "Efficient-vDiT: speed-up": 9,
        "MonarchRT: effective sparsity, %": 4,
        "Jenga: blocks": 1,
        "Radial Attention: pairs of the formal rule": 8,
        "Radial Attention: blocks of the code": 2,
        "Radial Attention: speed-up": 7,
        "Jenga: speed-up": 7,
        "VORTA: speed-up": 3,
        "SLA: reduction": 1,
        "SpargeAttn: speed-up": 1,
        "AdaCache: speed-up": 1,
        "MonarchRT: speed-up": 2,
    },
}


@pytest.fixture(scope="module")
def rows():
    return figures()


def keys(rows):
    return {(row.system, row.group, row.name, row.printed) for row in rows}


def test_the_known_slips_and_no_others(rows):
    slips = [row for row in rows if row.verdict == "slip"]
    assert keys(slips) == SLIPS
    assert all(row.note for row in slips)


def test_what_only_rounding_explains(rows):
    assert keys(row for row in rows if row.verdict == "rounding") == ROUNDING


def test_everything_else_is_exact_or_obeys_its_bound(rows):
    for row in rows:
        if (row.system, row.group, row.name, row.printed) not in SLIPS | ROUNDING:
            assert row.verdict == ("holds" if row.is_bound else "exact"), row


def test_all_groups_are_there(rows):
    for system, groups in COUNTS.items():
        mine = figures(system)
        assert {g: sum(row.group == g for row in mine) for g in groups} == groups
        assert len(mine) == sum(groups.values())
    assert [row.system for row in rows] == [s for s in SYSTEMS for _ in figures(s)]
    assert len({(*key, row.where) for row in rows for key in keys([row])}) == len(rows)


@pytest.mark.parametrize(
    ("system", "group", "name", "value"),
    [
        ("sta", "sparsity of STA's windows, %", "Hunyuan (3, 3, 3)", 91.0),
        ("sta", "readers of a tile, Hunyuan (3, 3, 3)", "a key at a corner is read by", 8),
        ("sta", "readers of a tile, Hunyuan (3, 3, 3)", "a key inside is read by, at most", 80),
        ("sta", "blocks, tile 4^3 in video 48^3, %", "tiled NATTEN, window 11: mixed", 7.1759),
        ("sta", "released strategy, 50 steps", "sparsity of the run, %", 58.375),
        ("sta", "tiled NATTEN, CUDA, (29, 41, 41)", "ms that MFU 4.04 % takes", 1736.36),
        ("adaspa", "cost in full attentions", "searches {10, 30} from step 1, sparsity 0.8", 19.0),
        ("adaspa", "cost in full attentions", "searches {10, 30} from step 0, sparsity 0.8", 19.8),
        ("adaspa", "cost in full attentions", "searches {1, 30} from step 1, sparsity 0.9", 6.9),
        ("adaspa", "schedule {10, 30} of 50", "searches, % of full attention", 2.0),
        ("sparse-vdit", "FLOP reduction", "Wan2.1", 1.66207),
        ("sparse-vdit", "attention density implied by PFLOPs", "Wan2.1, all steps", 0.43806),
        ("sparse-vdit", "search loss", "example, mode chosen", 2),
        ("others", "Swin: sparsity of windows, %", "(24, 32, 32)", 88.0),
        ("others", "VSA: cubes", "(16, 28, 52)", 364),
        ("others", "SVG: half width in frames", "HunyuanVideo, density 0.25", 4.34869),
        ("others", "MonarchRT: effective sparsity, %", "blocks (15, 26)", 89.4872),
    ],
)
def test_computed_values(rows, system, group, name, value):
    (row,) = (r for r in rows if (r.system, r.group, r.name) == (system, group, name))
    # The values above are written with five or six digits: half a unit of the last is up to 1.2e-5 of them.
    assert row.computed.value == pytest.approx(value, rel=2.5e-5)


def test_head_adaptive_sparsity_keeps_the_mean():
    for base in (0.8, 0.9):
        group = f"head-adaptive sparsity, base {base}"
        values = {r.name: r.computed.value for r in figures("adaspa") if r.group == group}
        assert values.pop("mean of heads") == pytest.approx(base, abs=1e-6)
        high, low = (1 + base) / 2, (3 * base - 1) / 2
        expected = [high, high, base, low, base, low]
        np.testing.assert_allclose(list(values.values()), expected, atol=1e-6)


def test_modes_of_the_search():
    assert mode_losses([0.2], [0.8]) == pytest.approx([0.3])
    losses = mode_losses([0, 0.9, 0.2, 0.4, 0.1], [0, 1, 0.8, 0.8, 0.6])
    np.testing.assert_allclose(losses, [0.5, 0.9, 0.3, 0.5, 0.3])
    assert choose_mode(losses) == 2  # a tie with M4
    assert choose_mode(mode_losses([0, 3, 2, 4, 1.5], [0, 1, 0.8, 0.8, 0.6])) == 0
    assert choose_mode(np.array([0.0, 1.0, 2.0, 2.0, 2.0])) == 1  # the bound itself is allowed


def test_masks_of_other_systems():
    assert frames_sparsity(1, 1) == 0
    whole = 18.75  # of frames; blocks that touch two frames keep more
    assert whole - 1.5 < frames_sparsity(8, 4) < whole
    # Two windows of 2 in 4 tokens keep a half; shifted by one, 1 + 4 + 1 of 16 pairs.
    assert axis_share(4, 2, 2) == 0.5
    assert axis_share(4, 2, 1) == 6 / 16
    assert axis_share(3, 8, 8) == 1
    for half in (0.5, 1.0):  # a band of that half width and the text have the density asked for
        grid = VideoGrid(4, 10, 10)
        share = 1 - (1 - half / grid.frames) ** 2
        assert band_width(grid, share) == pytest.approx(half)


def verdict(computed, printed):
    return Figure("sta", "group", "name", computed, printed, "where").verdict


@pytest.mark.parametrize(
    ("computed", "printed", "expected"),
    [
        (1.784, "1.78", "exact"),
        (1.7851, "1.78", "rounding"),  # cut off
        (1.7899, "1.78", "rounding"),
        (1.7749, "1.78", "slip"),  # rounded up: no rule does that
        (Number(1.7749, 0.001), "1.78", "rounding"),  # its own input was rounded
        (Number(1.77, 0.001), "1.78", "slip"),
        (1.7901, "1.78", "slip"),
        (80, "80", "exact"),
        (81, "80", "slip"),
        (80.4, "80", "exact"),
        (4.9, "< 5", "holds"),
        (5.1, "< 5", "slip"),
        (83.4, "83.2..83.5", "holds"),
        (83.6, "83.2..83.5", "slip"),
    ],
)
def test_verdicts(computed, printed, expected):
    assert verdict(computed, printed) == expected


def test_printed_numbers_carry_half_their_last_digit():
    assert number("945") == Number(945.0, 0.5)
    assert number("1.78").spread == pytest.approx(0.005)
    ratio = number("945") / "527"
    assert ratio.value == pytest.approx(945 / 527)
    corners = [(945 + a) / (527 + b) for a in (-0.5, 0.5) for b in (-0.5, 0.5)]
    assert ratio.spread == pytest.approx((max(corners) - min(corners)) / 2, rel=1e-3)
    assert (number("1.0") - "0.5").spread == pytest.approx(0.1)
    assert (Number(2.0, 0.1) * -3.0) == Number(-6.0, pytest.approx(0.3))


def test_table_shows_every_row_and_explains_slips(rows, capsys):
    command.print_table(rows)
    text = capsys.readouterr().out
    assert "268 figures: 231 exact, 10 holds, 14 rounding, 13 slip" in text
    assert all(row.name in text and row.printed in text for row in rows)
    assert all(row.note in text for row in rows if row.verdict == "slip")


def test_json_is_never_overwritten_without_a_word(tmp_path, capsys):
    out = tmp_path / "new" / "figures.json"
    command.main(command.Config(system="adaspa", json=out))
    stored = json.loads(out.read_text())
    assert len(stored) == len(figures("adaspa"))
    assert {"name", "computed", "printed", "difference", "tolerance", "verdict"} <= set(stored[0])
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="add --force to replace it"):
        command.main(command.Config(system="adaspa", json=out))
    assert out.read_text() == "mine"
    command.main(command.Config(system="adaspa", json=out, force=True))
    assert json.loads(out.read_text()) == stored
    with pytest.raises(IsADirectoryError, match="name a file"):
        command.main(command.Config(json=tmp_path))
    assert "wrote" in capsys.readouterr().out


def test_unknown_system_is_refused():
    with pytest.raises(ValueError, match="system='svg' must be one of"):
        figures("svg")


def test_command_fails_with_one_clear_line(tmp_path, capsys):
    out = tmp_path / "figures.json"
    out.write_text("mine")
    line = f"error: {out} exists; name another file or add --force to replace it"
    with pytest.raises(SystemExit, match=f"^{re.escape(line)}$"):
        run(command.main, command.Config, arguments=["--json", str(out)])
    assert out.read_text() == "mine"
    assert capsys.readouterr().out == ""
