"""A pattern that stands in a module of the user's own, from a file to a video."""

import json

from experiments import generate
from experiments.generation.generate_flags import Config
from sparsevdit_jax import SparseAttention, StepSchedule
from tests.experiments.clips import decode
from tests.experiments.generation import folders
from tests.toy_patterns import TopK

SMALL = dict(frames=9, height=64, width=96, prompt=("a cat rides a skateboard",), seed=(3,))


def test_a_pattern_of_a_user_s_own_module_is_found_by_its_name(tmp_path):
    wan = folders.wan(tmp_path / "wan")
    file, out = tmp_path / "mine.json", tmp_path / "clip.mp4"
    schedule = StepSchedule(2, density=(1.0, 0.5))
    file.write_text(SparseAttention.uniform(TopK(block=8), 2, schedule).to_json())
    assert json.loads(file.read_text())["patterns"][0]["pattern"] == "tests.toy_patterns.TopK"
    generate.main(Config(model=wan, attention=str(file), out=out, steps=2, **SMALL))
    phases = json.loads(out.with_suffix(".json").read_text())["phases"]
    assert {p: n["steps"] for p, n in phases[str(file)].items()} == {"dense": 1, "reuse": 1}
    assert decode(out, 64, 96)[0].shape == (9, 64, 96, 3)
