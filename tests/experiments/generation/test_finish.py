"""What is finished stays, what is not is made, and nothing of anybody else's is overwritten."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.generation import finish as module
from experiments.generation.finish import finish, unfinished
from experiments.generation.generate_flags import Config
from experiments.generation.jobs import jobs_of
from experiments.generation.store import Denoised, save_latents
from experiments.media import Written

VIDEO = np.zeros((1, 16, 16, 3), np.uint8)
END = Denoised(np.zeros((1, 2), np.float32), [("dense", 1.0)])


@pytest.fixture
def config(tmp_path):
    flags = dict(prompt=("a", "b"), seed=(3,), steps=1, fps=8, out=tmp_path / "x.npz")
    return Config(model=Path("m"), **flags)


def settings(job, name):
    return {"prompt": job.prompt, "attention": name, "list": (1, 2)}


def left(config, *names):
    names = names or ("dense",)
    compare = len(names) > 1
    return [job.row for job in unfinished(jobs_of(config, 2), settings, names, compare=compare)]


def write(config, job, **changes):
    kept = {"dense": settings(job, "dense")}
    save_latents(job.latents(), END, kept["dense"])
    videos, ends = {"dense": VIDEO}, {"dense": END}
    return finish(config, job, videos, ends, None, kept, {"decode": 1.0})


def test_a_finished_video_of_several_is_not_made_again(config, capsys):
    jobs = jobs_of(config, 2)
    assert left(config) == [0, 1]
    write(config, jobs[0])
    names = sorted(path.name for path in config.out.parent.iterdir())
    assert names == ["x-0001.json", "x-0001.npz"]
    assert left(config) == [1]
    assert "1 of 2 videos are finished and stay" in capsys.readouterr().out
    write(config, jobs[1])
    with pytest.raises(FileExistsError, match=r"all 2 videos from \S+x-0001\.npz to \S+x-0002"):
        left(config)


def test_the_report_says_what_the_video_is_of(config):
    job = jobs_of(config, 2)[1]
    write(config, job)
    report = json.loads(job.report.read_text())
    assert (report["config"]["prompt"], report["config"]["seed"]) == ("b", 3)
    assert report["videos"] == {"dense": str(job.out)}
    assert report["settings"]["dense"]["prompt"] == "b"


def test_a_report_of_another_run_or_without_its_video_is_left_alone(config):
    job = jobs_of(config, 2)[0]
    write(config, job)
    job.out.unlink()
    with pytest.raises(FileExistsError, match=r"x-0001\.json exists and is not overwritten"):
        left(config)
    for text in ("mine", "[]", '{"settings": {}}'):
        job.report.write_text(text)
        job.out.write_text("mine")
        with pytest.raises(FileExistsError, match=r"x-0001\.json exists"):
            left(config)
        assert job.report.read_text() == text


def test_a_video_without_a_report_is_this_runs_where_its_latents_are(config):
    job = jobs_of(config, 2)[0]
    job.out.write_text("mine")
    with pytest.raises(FileExistsError, match=r"x-0001\.npz exists and is not overwritten"):
        left(config)
    save_latents(job.latents(), END, settings(job, "dense"))
    assert left(config) == [0, 1]
    write(config, job)
    assert job.out.read_text() == "mine"  # it was whole: videos are moved to their names at the end


def test_the_dense_video_is_looked_at_where_it_is_made(config):
    dense = jobs_of(config, 2)[1].video(dense=True)
    dense.write_text("mine")
    assert left(config) == [0, 1]
    with pytest.raises(FileExistsError, match=r"x-0002-dense\.npz exists"):
        left(config, "dense", "sta")


def test_where_the_video_really_lies_is_said_and_reported(config, monkeypatch, capsys):
    spare = config.out.with_name("spare.npz")
    monkeypatch.setattr(
        module, "write_video", lambda path, video, fps: Written(spare, "no encoder, so it is spare")
    )
    job = jobs_of(config, 2)[0]
    assert write(config, job)["videos"] == {"dense": str(spare)}
    assert "warning: no encoder, so it is spare" in capsys.readouterr().out
    assert not job.latents().exists()


def test_latents_stay_where_that_is_asked_for(config):
    job = jobs_of(config, 2)[0]
    write(config.__class__(**vars(config) | {"save_latents": True}), job)
    assert job.latents().exists()
