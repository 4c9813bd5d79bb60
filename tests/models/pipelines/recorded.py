"""Runs of diffusers' pipelines in tests/golden/parity/pipeline*.npz, and ours on the same numbers."""

import copy
import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from models.pipelines import Clip, Conditions, Denoiser, Family, read_family
from models.pretrained import load_transformer, load_vae
from models.text_embeddings import TextEmbeddings
from models.transformer import TransformerOutput
from tests import tolerances
from tests.models import parity
from tests.models.schedulers import recorded as schedulers

DOCUMENTS = json.loads((parity.FOLDER / "pipelines.json").read_text())["pipelines"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclasses.dataclass(frozen=True)
class Run:
    """One recorded run, and our models with its weights."""

    family: Family
    transformer: Any
    vae: Any
    clip: Clip
    steps: int
    guidance: float
    arrays: dict[str, np.ndarray]

    def text(self, **changes) -> TextEmbeddings:
        """Its embeddings; Wan's are recorded without the zeros that fill 512 tokens."""
        fields = {field.name for field in dataclasses.fields(TextEmbeddings)}
        given = {name: array for name, array in self.arrays.items() if name in fields}
        if self.family.NAME == "Wan":
            for name in ("prompt_embeds", "negative_prompt_embeds"):
                rest = self.family.text_shape[0] - given[name].shape[1]
                given[name] = np.pad(given[name], [(0, 0), (0, rest), (0, 0)])
        given = {n: jnp.asarray(v) for n, v in given.items() if n not in changes}
        return TextEmbeddings(**given | {n: v for n, v in changes.items() if v is not None})

    @functools.cached_property
    def image(self) -> jax.Array | None:
        """Our latents of its first frame; encoded once, because that is compiled."""
        if "image" not in self.arrays:
            return None
        return self.family.image_latents(self.vae, self.arrays["image"], self.clip)

    def conditions(self) -> Conditions:
        """Ours, of its prompts and its first frame."""
        return self.family.conditions(self.text(), self.clip, self.guidance, self.image)

    def denoiser(self, **kwargs) -> Denoiser:
        """For its setting."""
        shape = self.family.latent_shape(self.clip)
        assert shape == self.arrays["noise"].shape
        return Denoiser(
            self.family,
            shape,
            num_steps=self.steps,
            text_len=self.text().prompt_embeds.shape[1],
            **kwargs,
        )


def folder(path: Path, name: str) -> Path:
    """The checkpoint of a recorded run, as diffusers lays one out, in `path`."""
    document = DOCUMENTS[name]
    weights = arrays(name, "weights/")
    for part in ("transformer", "vae"):
        (path / part).mkdir(parents=True)
        config = parity.config(document[part]) | document.get(f"{part}_changes", {})
        (path / part / "config.json").write_text(json.dumps(config))
        stored = parity.FOLDER / f"{document[part]}.safetensors"
        if part == "transformer" and weights:
            save_file(load_file(stored) | weights, str(path / part / WEIGHTS))
        else:
            shutil.copy(stored, path / part / WEIGHTS)
    scheduler = schedulers.DOCUMENTS[document["scheduler"]]
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": scheduler["class"], **scheduler["config"]})
    )
    (path / "model_index.json").write_text(json.dumps({"_class_name": document["pipeline"]}))
    return path


def arrays(name: str, prefix: str = "") -> dict[str, np.ndarray]:
    """What is recorded of a run, by the rest of the names that start with `prefix`."""
    start = f"{name}/{prefix}"
    with np.load(parity.FOLDER / f"pipeline_{name.partition('_')[0]}.npz") as file:
        found = {k.removeprefix(start): file[k] for k in file.files if k.startswith(start)}
    return {k: v.astype(np.int32) if v.dtype == np.int64 else v for k, v in found.items()}


def read(path: Path, name: str) -> Run:
    """Everything of a recorded run; writes its checkpoint to `path` first."""
    document, path = DOCUMENTS[name], folder(path, name)
    clip = Clip(document["frames"], document["height"], document["width"])
    family = read_family(path)
    family.check_clip(clip)
    transformer = load_transformer(path, dtype=jnp.float32)
    vae = load_vae(path, dtype=jnp.float32)
    return Run(
        family, transformer, vae, clip, document["steps"], document["guidance"], arrays(name)
    )


def assert_run_is_diffusers(run: Run) -> None:
    """The latents after every step and the frames of our run are the recorded ones.

    Allowed in a latent: what it differs by where each model output errs by what an embedded time or guidance does, as
    guidance amplifies it; measured by adding that. Allowed in a frame: the rounding to uint8, the recorded float16's,
    and 1e-3 of -1..1 for the latents' error and the decoder's.
    """
    conditions = run.conditions()
    error = parity.of_angle(1000, conditions.inputs.get("guidance", 0))
    amplified = 1.0 if conditions.guidance is None else 2 * run.guidance - 1
    inputs = {"error": jnp.zeros(len(jax.tree.leaves(conditions.inputs)[0])), **conditions.inputs}
    conditions = dataclasses.replace(conditions, inputs=inputs)
    family = copy.copy(run.family)
    family.predict = functools.partial(_erring, run.family.predict)
    denoiser = dataclasses.replace(run, family=family).denoiser()
    got = _latents(denoiser, run, conditions)
    inputs = {**inputs, "error": inputs["error"] + amplified * error}
    wrong = _latents(denoiser, run, dataclasses.replace(conditions, inputs=inputs))
    for i, want in enumerate(run.arrays["x"]):
        allowed = float(np.abs(wrong[i] - got[i]).max())
        assert allowed < 1e-2, "the solver amplifies more than it did; the run tells nothing"
        tolerances.assert_within(got[i], want, allowed, f"latent after step {i}")
    if "frames" in run.arrays:
        assert_frames_are_diffusers(run, got[-1])


def assert_frames_are_diffusers(run: Run, latents) -> None:
    """Decoded `latents` are the recorded frames, see above; every second row was recorded."""
    frames = np.concatenate(list(run.family.frames(run.vae, jnp.asarray(latents), run.clip)))
    assert frames.dtype == np.uint8
    want = 255 * run.arrays["frames"].astype(np.float64)
    assert 20 < want.std(), "the recorded frames are grey"
    allowed = 0.5 + 255 * (2.0**-12 + 0.5e-3)
    tolerances.assert_within(frames[:, ::2], want, allowed, "frames", "rounding to bytes takes 0.5")


def _erring(predict, model, x, timestep, conditions, *args):
    """`predict`, and an error that comes as a condition, so that both runs are one program."""
    inputs = dict(conditions.inputs)
    error = inputs.pop("error")
    out, states = predict(model, x, timestep, dataclasses.replace(conditions, inputs=inputs), *args)
    return out + error[0], states


def _latents(denoiser, run, conditions) -> list[np.ndarray]:
    latents = []
    denoiser.run(
        run.transformer,
        conditions,
        denoiser.start(run.arrays["noise"], conditions),
        lambda phase, progress: latents.append(np.array(progress.x)),
    )
    return latents


class Stub:
    """In a transformer's place: keeps what it is called with and gives [batch row + 1] everywhere."""

    dtype = jnp.float32

    def __init__(self, channels: slice, axis: int):
        self.calls: list[dict] = []
        self._index = (slice(None),) * axis + (channels,)

    def __call__(self, **given):
        self.calls.append(given)
        hidden = given["hidden_states"][self._index]
        rows = jnp.arange(1.0, len(hidden) + 1).reshape(-1, *[1] * (hidden.ndim - 1))
        return TransformerOutput(jnp.broadcast_to(rows, hidden.shape), given["states"])


def predict(run: Run, conditions: Conditions) -> tuple[jax.Array, dict]:
    """What the family makes of a stub's answer, and what the stub was asked."""
    axis = run.family.channel_axis
    stub = Stub(slice(0, run.arrays["noise"].shape[axis]), axis)
    x = jnp.asarray(run.arrays["noise"])
    out, states = run.family.predict(stub, x, jnp.float32(7), conditions, None, (), None)
    assert states == ()
    assert out.shape == x.shape
    (call,) = stub.calls
    return out, call


def assert_guidance_takes_a_row_each(run: Run) -> None:
    """Two rows, the prompt's first, and u + g (c - u); one row where the scale is 1, and no negative prompt needed."""
    image = None if "image" not in run.arrays else jnp.asarray(run.arrays["image_latents"])
    text = run.text()
    out, call = predict(run, run.family.conditions(text, run.clip, 3.0, image))
    assert len(call["hidden_states"]) == 2
    np.testing.assert_array_equal(call["timestep"], [7, 7])
    both = jnp.concatenate([text.prompt_embeds, text.negative_prompt_embeds])
    np.testing.assert_array_equal(call["encoder_hidden_states"], both)
    np.testing.assert_array_equal(out, jnp.full(out.shape, 2 + 3 * (1 - 2.0)))

    alone = run.text(
        negative_prompt_embeds=None,
        negative_prompt_attention_mask=None,
        negative_pooled_projections=None,
    )
    conditions = run.family.conditions(alone, run.clip, 1.0, image)
    assert conditions.guidance is None
    out, call = predict(run, conditions)
    assert {len(v) for k, v in call.items() if k in conditions.inputs} == {1}
    assert len(call["hidden_states"]) == 1
    np.testing.assert_array_equal(out, jnp.ones(out.shape))
