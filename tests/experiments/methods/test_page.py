import json
import struct

import pytest

from experiments import record
from experiments.methods import page, vectors
from experiments.methods.verification import verified
from sparsevdit_jax import StepSchedule, VideoGrid
from sparsevdit_jax.presets import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_and_a_small_picture(name):
    remedy = "run python -m experiments.methods"
    assert (page.PAGES / f"{name}.md").exists(), remedy
    assert (page.PAGES / f"{name}.png").exists(), remedy
    image = (page.PAGES / f"{name}.png").read_bytes()
    width, height = struct.unpack(">2I", image[16:24])
    assert image.startswith(b"\x89PNG")
    assert (width, height % 245) == (700, 0)
    assert len(image) < 40_000


def test_no_page_is_of_a_method_that_is_gone():
    assert {path.stem for path in page.PAGES.iterdir()} == METHODS.keys()


def test_a_page_says_all():
    text = page.page(METHODS["sparse-vdit"])
    assert text.startswith("# Sparse-vDiT\n\nHeads take turns with `Diagonal`, `MultiDiagonal` and")
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(heads) == 6
    assert "[2506.03065](https://arxiv.org/abs/2506.03065)" in text
    assert "![" in text
    assert "](sparse-vdit.png)" in text
    assert "| `density` | `float` | `0.25` |" in text
    assert "| all | `Diagonal(density=0.3)`; `MultiDiagonal(density=0.3)`;" in text
    assert "publishes neither widths nor densities" in text
    assert "| diagonal 0.25 | 0.253 |" in text
    assert "test_diagonal.py" in text
    assert "test_vertical_stripe.py" in text


def test_models_with_settings_of_their_own_have_a_row():
    table = page.settings(METHODS["svg"])
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == [
        "| others",
        "| hunyuanvideo",
        "| cogvideox",
    ]
    assert "the first 5 dense" in table.splitlines()[3]


def test_schedules_in_words():
    assert page.steps(StepSchedule(50)) == "none"
    assert page.steps(StepSchedule.adaspa(50)) == "the first 9 dense; searches at 9, 29"
    falling = StepSchedule(4, dense_last_steps=1, density=(0.5, 0.4, 0.3, 0.2))
    assert page.steps(falling) == "the last 1 dense; density by step, from 0.5 to 0.2"


def row(name, **measured):
    where = dict(device="cpu", processor="CPU", num_cores=2, python="3", jax="0", flax="0")
    return dict(
        name=name, time="2026-01-01", git_sha="a" * 40, dirty=False, environment=where, config={},
        measured=measured,
    )  # fmt: skip


def write(folder, name, *rows):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_closeness_takes_the_method_and_no_other(tmp_path):
    def measured(family, digit=0):
        same = dict(density=0.25, run_density=0.5, seed=0, psnr_db=20.0, ssim=0.9, attention="x")
        return row("quality", setting=family, family=family, label="a", digit=digit, **same)

    method = METHODS["svg"]
    write(tmp_path, "quality", measured("SVG2"), measured("STA"))
    assert "Nothing is recorded yet" in page.closeness(method, tmp_path)
    families = (method.title, f"{method.title} compensated", "STA")
    write(tmp_path, "quality", *(measured(f, digit) for f in families for digit in (0, 1)))
    text = page.closeness(method, tmp_path)
    assert "| a | 0.250 | 0.500 | 20.00 ± 0.00 | 0.900 ± 0.000 |  |" in text
    assert "| compensated a | 0.250 | 0.500 | 20.00 ± 0.00 | 0.900 ± 0.000 |  |" in text
    assert "on 2 clips" in text
    assert text.count("aaaaaaaaaa") == 1


def test_verification_shows_the_newest_comparison_of_each_file(tmp_path):
    kinds = page.kinds_of(METHODS["svg2"])
    known = dict(has_plan=True, skips=False, hopper=True, blocks=["64 x 64"])

    def compared(share, family="svg2_"):
        measured = dict(file=f"{family}0", family=family, compared=4, exact=1, worst="out")
        return row("conformance", **measured, worst_share=share)

    write(tmp_path, vectors.NAME, compared(0.5), compared(0.25), compared(0.9, "sta_"))
    text = verified(kinds, known, tmp_path)
    assert "| svg2_0 | 4 | 1 | 25.0% (out) |" in text
    assert "sta_" not in text
    assert "have tiles for its blocks of 64 x 64 tokens" in text
    write(tmp_path, vectors.NAME, compared(0.9, "sta_"))
    odd = known | dict(hopper=False, blocks=["1 x 72"])
    text = verified(kinds, odd, tmp_path)
    assert "No numbers that other code has made" in text
    assert "refuse its blocks of 1 x 72" in text
    assert "refuse to skip" in verified(kinds, known | dict(skips=True), tmp_path)
    assert "is its own" in verified(kinds, known | dict(has_plan=False), tmp_path)


def test_the_table_has_a_row_for_each_method():
    lines = page.index().splitlines()
    assert len(lines) == 2 + len(METHODS)
    assert "| from q and k |" in next(line for line in lines if "`adaspa`" in line)
    assert "| by position |" in next(line for line in lines if "`radial`" in line)
    assert "| trained for it |" in next(line for line in lines if "`vsa`" in line)
    assert all(len(line.replace(r"\|", "").split("|")) == 8 for line in lines)


def test_pictures_are_of_the_small_grid():
    for name in page.SMALLER:
        assert name in METHODS
    grid = VideoGrid(8, 16, 16, text_len=16)
    assert page.drawn(METHODS["adaspa"]) == page.patterns_of(METHODS["adaspa"], grid)
    assert record.RESULTS.is_dir()
