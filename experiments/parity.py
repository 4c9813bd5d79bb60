"""How far are our models from diffusers', on the recorded tiny models of tests/golden/parity?

    python -m experiments.parity             # five minutes; appends to results/parity.jsonl
    python -m experiments.readme_tables      # writes the table of models/README.md

The tests compare the same cases with fixed tolerances; this measures the distances. float32 and bfloat16 on whatever
device there is, matmuls in full precision.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.record import Run
from models.config import config_from_json
from models.pretrained import TRANSFORMERS, VAES
from tests.models import parity
from tests.models.random_weights import random_model

CASES = {
    "wan": ("a", "b", "tokent"),
    "wan_i2v": ("a",),
    "hunyuan": ("a", "b"),
    "hunyuan_noguid": ("a",),
    "hunyuan_variant": ("a",),
    "cogvideox_2b": ("a", "b"),
    "cogvideox_5b": ("a", "b"),
    "cogvideox_15": ("a", "b"),
    "cogvideox_5b_i2v": ("a", "b"),
    "cogvideox_15_i2v": ("a",),
}
EMBEDDINGS = {
    "condition_embedder": 4,
    "time_text_embed": 1,
    "time_embedding": 0,
    "ofs_embedding": 0,
}
"""Modules that embed the timestep -> outputs that were recorded of them; 0 where they return one array."""
VAE_NAMES = ("vae_wan", "vae_hunyuan", "vae_cogvideox")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      only: names of models; all by default.
      allow_dirty: record results of uncommitted code, marked as such.
    """

    only: tuple[str, ...] = ()
    allow_dirty: bool = False


def load(registry, name: str, dtype=jnp.float32):
    """A tiny model with its recorded weights."""
    document = parity.config(name)
    cls = registry[document["_class_name"]]
    model = random_model(cls, config_from_json(cls.config_class, document), dtype=dtype)
    parity.load(model, cls.KEYS, name)
    return model


def inputs(arrays: dict[str, np.ndarray]) -> dict:
    """Keyword arguments of a case, with the rotary tables as one."""
    given: dict = dict(parity.inputs(arrays))
    parts = [given.pop(f"image_rotary_emb.{i}", None) for i in range(2)]
    return given | ({} if parts[0] is None else {"image_rotary_emb": tuple(parts)})


def recorded_embeddings(arrays: dict[str, np.ndarray]) -> dict:
    """What diffusers' own embedders returned, by the module's name."""
    found = {}
    for module, outputs in EMBEDDINGS.items():
        name = f"tap/{module}"
        if outputs == 0 and name in arrays:
            found[module] = jnp.asarray(arrays[name])
        if f"{name}.out0" in arrays:
            parts = [arrays.get(f"{name}.out{i}") for i in range(outputs)]
            parts = [None if part is None else jnp.asarray(part) for part in parts]
            found[module] = parts[0] if outputs == 1 else tuple(parts)
    return found


def distance(got, want) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64)).max())


def transformer_rows(name: str) -> Iterator[dict]:
    """Distances of every case of a transformer."""
    model, half = (load(TRANSFORMERS, name, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    run = jax.jit(lambda model, given: model(**given).sample)
    for case in CASES[name]:
        arrays = parity.arrays(name, case)
        given = inputs(arrays)
        recorder = parity.Recorder(model, model.KEYS, recorded_embeddings(arrays))

        def weighed(x, given=given, arrays=arrays, recorder=recorder):
            with recorder.recording():
                out = model(**given | {"hidden_states": x}).sample
            return (out * arrays["cotangent"]).sum(), out

        gradient, out = jax.jit(jax.grad(weighed, has_aux=True))(given["hidden_states"])
        yield {
            "model": name,
            "case": case,
            "output_error": distance(run(model, given), arrays["out"]),
            "recorded_time_error": distance(out, arrays["out"]),
            "gradient_error": distance(gradient, arrays["grad_hidden_states"]),
            "bfloat16_error": distance(run(half, given), arrays["out"]),
        }


def vae_rows(name: str) -> Iterator[dict]:
    """Distances of every case of a VAE."""
    vae = load(VAES, name)
    decode = jax.jit(lambda vae, z: vae.decode(z))
    with np.load(parity.FOLDER / f"{name}_io.npz") as file:
        cases = sorted({key.partition("/")[0] for key in file.files})
    for case in cases:
        arrays = parity.arrays(name, case)
        if "z" in arrays:
            error = distance(decode(vae, jnp.asarray(arrays["z"])), arrays["decoded"])
            yield {"model": name, "case": f"decode {case}", "output_error": error}
        else:
            found = jax.jit(lambda vae, x: vae.encode(x))(vae, jnp.asarray(arrays["video"]))
            pairs = zip(found, (arrays["mean"], arrays["logvar"]), strict=True)
            error = max(distance(got, want) for got, want in pairs)
            yield {"model": name, "case": "encode", "output_error": error}


def main(config: Config) -> None:
    """Measures and records."""
    rows = {name: functools.partial(transformer_rows, name) for name in CASES}
    rows |= {name: functools.partial(vae_rows, name) for name in VAE_NAMES}
    if unknown := sorted(set(config.only) - rows.keys()):
        raise ValueError(f"only={unknown} names no model; choose from {sorted(rows)}")
    run = Run.start("parity", config, allow_dirty=config.allow_dirty)
    with jax.default_matmul_precision("highest"):
        for name in config.only or rows:
            for row in rows[name]():
                run.log(**row)
                print(row, flush=True)


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
