"""Every method by its name in `generate`, on a tiny Wan of random weights."""

import numpy as np
import pytest

from experiments import generate
from experiments.generation.generate_flags import Config
from sparsevdit_jax.presets import METHODS

from .generation import folders

SMALL = dict(frames=9, height=64, width=96, steps=5, prompt=("a cat rides a skateboard",))


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return folders.wan(tmp_path_factory.mktemp("wan"))


@pytest.mark.parametrize("method", ["vsa", "sla"])
def test_a_branch_that_a_model_was_not_trained_with_is_refused(wan, tmp_path, method):
    config = Config(model=wan, attention=method, out=tmp_path / "clip.npz", **SMALL)
    with pytest.raises(
        ValueError, match=f"--attention {method} has a second branch, which .* was not"
    ):
        generate.main(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [name for name in METHODS if name not in ("vsa", "vsa-h3", "sla")]
)
def test_every_method_makes_a_video(wan, tmp_path, method):
    out = tmp_path / "clip.npz"
    generate.main(Config(model=wan, attention=method, out=out, **SMALL))
    with np.load(out) as video:
        assert video["frames"].shape == (9, 64, 96, 3)
        assert video["frames"].std() > 5  # not blank
