import dataclasses
import re

import jax
import numpy as np
import pytest

from models.cogvideox import PRESETS, rotary_embedding
from models.cogvideox.positions import sincos_embedding
from tests import tolerances
from tests.models import parity
from tests.models.cogvideox.tiny_models import CASES, load

GOLDEN = np.load(parity.FOLDER / "cogvideox_positions.npz")
# "preset/kind/HEIGHTxWIDTHxFRAMES" of latents: rows of diffusers' tables, some of them upright or off the
# trained shape, for which 1.0's positions are fractions.
CANVASES = sorted({name.rsplit("/", 1)[0] for name in GOLDEN.files})


def canvas(name):
    preset, kind, size = name.split("/")
    height, width, frames = map(int, re.findall(r"\d+", size))
    return PRESETS[preset], kind, (frames, height, width)


@pytest.mark.parametrize("name", CANVASES)
def test_rows_of_diffusers_tables(name):
    config, kind, size = canvas(name)
    rows, tokens = GOLDEN[f"{name}/rows"], GOLDEN[f"{name}/tokens"]
    if kind == "rotary":
        frames, height, width = size
        for part, table in zip(
            ("cos", "sin"), rotary_embedding(config, height, width, frames), strict=True
        ):
            assert table.shape == (tokens, config.head_dim)
            assert table.dtype == np.float32
            # Of float64 angles or of float32 ones, which err by half of eps of the largest position.
            more = parity.of_angle(max(size))
            parity.assert_close(table[rows], GOLDEN[f"{name}/{part}"], 3, part, more)
    else:
        table = jax.jit(sincos_embedding, static_argnums=(0, 1))(config, config.token_shape(*size))
        assert table.shape == (tokens, config.dim)
        more = parity.of_angle(max(size))
        parity.assert_close(table[rows], GOLDEN[f"{name}/table"], 3, name, more)


@pytest.mark.parametrize(("name", "letter"), [case for case in CASES if "2b" not in case[0]])
def test_tables_of_the_parity_files(name, letter):
    case, config = parity.arrays(name, letter), load(name).config
    _, frames, _, height, width = case["in/hidden_states"].shape
    for i, table in enumerate(rotary_embedding(config, height, width, frames)):
        want, more = case[f"in/image_rotary_emb.{i}"], parity.of_angle(max(frames, height, width))
        parity.assert_close(table, want, 3, f"table {i}", more)


def test_positions_of_the_usual_clip_are_whole_numbers():
    config = PRESETS["cogvideox-5b"]
    other = dataclasses.replace(config, patch_size_t=1)  # counts 0, 1, 2, ...
    for a, b in zip(
        rotary_embedding(config, 60, 90, 3), rotary_embedding(other, 60, 90, 3), strict=True
    ):
        tolerances.assert_within(a, b, parity.of_angle(90), "table")


def test_what_has_no_rotary_positions_is_refused():
    with pytest.raises(ValueError, match="positions are added inside the model; call it without"):
        rotary_embedding(PRESETS["cogvideox-2b"], 60, 90, 13)
    with pytest.raises(ValueError, match="302 x 90 are larger than the 300 x 300"):
        rotary_embedding(PRESETS["cogvideox1.5-5b"], 302, 90, 12)
