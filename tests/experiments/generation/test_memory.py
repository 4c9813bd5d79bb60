"""Memory, planned before a run."""

import pytest

from experiments.generation.memory import GIB, NotEnoughMemory, check_memory, device_memory, smaller
from models.pipelines import Clip, Memory, Wan
from models.schedulers import UniPCMultistepConfig, UniPCMultistepScheduler
from models.wan import PRESETS
from models.wan_vae import PRESETS as VAES

CLIP = Clip(81, 720, 1280)


@pytest.fixture
def family(tmp_path):
    return Wan(
        tmp_path,
        PRESETS["wan2.1-t2v-14b"],
        VAES["wan2.1-vae"],
        UniPCMultistepScheduler(
            UniPCMultistepConfig(prediction_type="flow_prediction", use_flow_sigmas=True)
        ),
    )


def check(
    family, *, weights=28, activations=20, decoding=5, limit=None, dtype="bfloat16", tiled=False
):
    steps = {
        "dense": Memory(weights * GIB, activations * GIB, 0),
        "sta": Memory(weights * GIB, GIB, 0),
    }
    limit = None if limit is None else limit * GIB
    return check_memory(family, CLIP, steps, decoding * GIB, dtype=dtype, tiled=tiled, limit=limit)


def test_the_largest_program_counts(family):
    says = check(family, limit=80)
    assert (
        "denoising 48.0 GiB (28.0 GiB of them weights and latents), decoding 5.0 GiB; 80.0 GiB there"
        in says
    )
    assert "unknown" in check(family)


def test_what_does_not_fit_is_refused_with_what_would(family):
    with pytest.raises(NotEnoughMemory) as caught:
        check(family, limit=40)
    message = str(caught.value)
    assert "81 frames of 720 x 1280 do not fit" in message
    usable = 0.92 * 40
    for clip in smaller(family, CLIP, Memory(28 * GIB, 20 * GIB, 0), int(usable * GIB)):
        assert f"--frames {clip.frames} --height {clip.height} --width {clip.width}" in message
        family.check_clip(clip)
        a, b = (family.latent_size(c) for c in (clip, CLIP))
        volume = a[0] * a[1] * a[2] / (b[0] * b[1] * b[2])
        assert 28 + 20 * volume <= usable
        assert 28 + 20 * 1.35 * volume > usable  # not much smaller than need be


def test_weights_alone_may_be_too_much(family):
    with pytest.raises(
        NotEnoughMemory, match="For denoising nothing smaller fits either: the weights alone"
    ):
        check(family, limit=24)
    with pytest.raises(NotEnoughMemory, match="--dtype bfloat16, which halves the weights"):
        check(family, weights=56, limit=56, dtype="float32")


def test_decoding_may_be_too_much(family):
    with pytest.raises(NotEnoughMemory, match="--tile on"):
        check(family, decoding=90, limit=80)
    with pytest.raises(NotEnoughMemory) as caught:
        check(family, decoding=90, limit=80, tiled=True)
    assert "--tile on" not in str(caught.value)
    assert "denoising nothing" not in str(caught.value)
    assert "For decoding nothing smaller fits either: one tile alone" in str(caught.value)


def test_this_device_says_what_it_has():
    memory = device_memory()
    assert memory is None or memory > 2**26
