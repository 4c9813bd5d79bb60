"""Which videos a call makes, and their files."""

from pathlib import Path

from experiments.generation.generate_flags import Config
from experiments.generation.jobs import jobs_of


def names(rows=1, **flags):
    config = Config(**{"model": Path("m"), "out": Path("o/x.mp4"), "seed": (0,)} | flags)
    return [job.out.name for job in jobs_of(config, rows)]


def test_one_video_has_the_name_that_was_asked_for():
    assert names(prompt=("a",)) == ["x.mp4"]
    assert names(rows=1) == ["x.mp4"]


def test_several_are_numbered_by_prompt_and_called_by_seed():
    assert names(prompt=("a", "b"), rows=2) == ["x-0001.mp4", "x-0002.mp4"]
    assert names(prompt=("a",), seed=(7, 40)) == ["x-seed7.mp4", "x-seed40.mp4"]
    assert names(rows=2, seed=(7, 8), out=Path("o/frames")) == [
        "frames-0001-seed7",
        "frames-0001-seed8",
        "frames-0002-seed7",
        "frames-0002-seed8",
    ]


def test_a_video_knows_its_prompt_its_row_and_what_lies_beside_it():
    config = Config(model=Path("m"), prompt=("a", "b"), seed=(3, 4), out=Path("o/x.npz"))
    job = jobs_of(config, 2)[3]
    assert (job.row, job.prompt, job.seed) == (1, "b", 4)
    beside = [job.report, job.video(), job.video(dense=True), job.run(), job.latents(dense=True)]
    assert [path.name.removeprefix("x-0002-seed4") for path in beside] == [
        ".json",
        ".npz",
        "-dense.npz",
        ".run.safetensors",
        "-dense.latents.safetensors",
    ]
    assert {path.parent for path in beside} == {Path("o")}
    (job,) = jobs_of(Config(model=Path("m"), seed=(0,)), 1)
    assert job.prompt is None
