"""Parity with diffusers: files of tests/golden/parity, and what goes in and out of every module of a call.

The files hold tiny random models with inputs, outputs, gradients and the outputs of inner modules ("taps").
A `Recorder` runs a model eagerly, keeps what each of its modules returns under the module's name in the
checkpoint, and can put given values in their place: so a failure says in which module it begins.
"""

import contextlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from models import stack as blocks
from models.keys import KeyTable, checkpoint_slots
from tests import tolerances

FOLDER = Path(__file__).parents[1] / "golden" / "parity"


def config(name: str) -> dict:
    """The config.json of a tiny model."""
    return json.loads((FOLDER / f"{name}_config.json").read_text())


def arrays(name: str, case: str) -> dict[str, np.ndarray]:
    """Arrays of one case of `NAME_io.npz`, by the rest of their names ("in/timestep", "out", "tap/...").

    int64, which JAX turns off by default, becomes int32.
    """
    with np.load(FOLDER / f"{name}_io.npz") as file:
        found = {
            key.removeprefix(f"{case}/"): file[key]
            for key in file.files
            if key.startswith(f"{case}/")
        }
    assert found, f"{name}_io.npz has no case {case}"
    return {k: v.astype(np.int32) if v.dtype == np.int64 else v for k, v in found.items()}


def inputs(case: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The keyword arguments of a case."""
    return {k.removeprefix("in/"): jnp.asarray(v) for k, v in case.items() if k.startswith("in/")}


def load(module: nnx.Module, table: KeyTable, name: str) -> None:
    """Fills `module` with the tensors of `NAME.safetensors`; every name must be used, no shape may differ."""
    tensors = load_file(FOLDER / f"{name}.safetensors")
    slots = checkpoint_slots(module, table)
    assert slots.keys() == tensors.keys(), sorted(slots.keys() ^ tensors.keys())
    for key, slot in slots.items():
        assert slot.shape == tensors[key].shape, key
        value = jnp.asarray(slot.from_checkpoint(tensors[key]))
        slot.parameter[...] = value.astype(slot.parameter[...].dtype)


class Recorder:
    """Outputs of a model's modules during eager calls, by the modules' names in the checkpoint.

    Args:
      replace: {module's name: value to return instead of what it computes}.
    """

    def __init__(self, module: nnx.Module, table: KeyTable, replace: dict | None = None):
        self.outputs: dict[str, object] = {}
        self._replace = dict(replace or {})
        self._names = {}
        self._types = set()
        for path, part in nnx.iter_modules(module):
            self._names[id(part)] = table.theirs((*path, "")).removesuffix(".")
            if "__call__" in vars(type(part)) or callable(part):
                self._types.add(type(part))
        unknown = self._replace.keys() - set(self._names.values())
        assert not unknown, f"no modules called {unknown}: {sorted(self._names.values())}"

    @contextlib.contextmanager
    def recording(self):
        """Within it, calls of the model's modules are recorded (and replaced).

        Blocks then run one by one: in the program that equal blocks share, none has a name.
        """
        with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "_block", blocks._call)
            patch.setattr(blocks, "_block_again", jax.checkpoint(blocks._call))
            for cls in self._types:
                original = cls.__call__

                def call(part, *args, _original=original, **kwargs):
                    name = self._names.get(id(part))
                    if name in self._replace:
                        return self._replace[name]
                    out = _original(part, *args, **kwargs)
                    if name is not None:
                        self.outputs[name] = out
                    return out

                own = "__call__" in vars(cls)
                cls.__call__ = call
                stack.callback(
                    lambda cls=cls, original=original, own=own: (
                        setattr(cls, "__call__", original) if own else delattr(cls, "__call__")
                    )
                )
            yield self


def assert_close(got, want, roundings: float, what: str, more: float = 0.0, near: str = "") -> None:
    """`got` is diffusers' `want` up to `roundings` in a row, counted as `tolerances.rounding` says."""
    what = f"{what} beside diffusers'"
    tolerances.assert_rounding_apart(got, want, roundings, what, more=more, near=near)


def of_angle(*angles) -> float:
    """What a sine may be off by, and what is made of it by layers that scale it by less than 1 (an embedded timestep).

    torch's and our frequencies differ in their last bits, of which one is eps of an angle: of the largest, each.
    """
    return 2 * max(float(np.max(a)) for a in angles) * float(np.finfo(np.float32).eps)


# Roundings in a row of the models' parts, counted as tolerances.rounding says.


def attention(width: int, head_dim: int, keys: int, logit: float = 1.0) -> float:
    """Norm and modulation 7, norms of q and k 4, RoPE 3, scale and softmax 4, gate and sum 2; the sums beside them.

    Those are q, logits of size `logit`, the softmax, the mean of values, and the output.
    """
    return 20 + width / 2 + logit**2 * head_dim / 2 + keys / 3 + keys / 2 + width / 2


def feed_forward(width: int, hidden: int) -> float:
    """Norm and modulation 7, GELU 5, gate and sum 2; two products."""
    return 14 + width / 2 + hidden / 2


def layers(number: float, config, keys: int, hidden: int, cross: int = 0) -> float:
    """`number` layers of a transformer with attention to `keys` tokens and, where given, to `cross` others."""
    width, head_dim = config.num_heads * config.head_dim, config.head_dim
    crossing = attention(width, head_dim, cross) if cross else 0.0
    return number * (attention(width, head_dim, keys) + crossing + feed_forward(width, hidden))


def autoencoder(channels, resnets: int, latent: int, attention: int = 0) -> float:
    """One half of a VAE: convolutions at both ends, levels of `resnets` each and one beside, between them resampling.

    Args:
      channels: of the levels.
      resnets: of a level; each twice norm 5, SiLU 3 and a convolution of 27 taps, and a sum.
      latent: channels of the latents.
      attention: tokens that attend to each other in the middle, if they do.
    """
    levels = sum(resnets * (17 + 27 * c) + 9 * c / 2 for c in channels)
    middle = 2 * (17 + 27 * channels[-1])
    mixing = 20 + 1.5 * channels[-1] + attention if attention else 0
    return 27 * latent / 2 + middle + mixing + levels + 8 + 27 * max(channels) / 2
