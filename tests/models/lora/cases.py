"""Tiny models that LoRAs are merged into, and the files of tests."""

import functools
import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from models.config import config_from_json
from models.keys import checkpoint_slots
from models.lora import merge_loras
from models.pretrained import TRANSFORMERS

from .. import parity
from ..random_weights import random_model

RANK = 2


class Case:
    """A tiny model, whose weights are put back after each merge."""

    def __init__(self, name):
        document = parity.config(name)
        cls = TRANSFORMERS[document["_class_name"]]
        config = config_from_json(cls.config_class, document | {"num_layers": 2})
        self.model = random_model(cls, config)
        self.slots = checkpoint_slots(self.model, cls.KEYS)
        self.values = {n: slot.parameter[...] for n, slot in self.slots.items()}
        self.shapes = {n: slot.shape for n, slot in self.slots.items()}
        self.before = self.weights()

    def weights(self):
        return {n: s.to_checkpoint(np.asarray(s.parameter[...])) for n, s in self.slots.items()}

    def merged(self, files, **options):
        """Weights with the LoRAs in them; those without are back in the model."""
        merge_loras(self.model, files, **options)
        after = self.weights()
        for name, slot in self.slots.items():
            slot.parameter.set_value(self.values[name])
        return after

    def pair(self, module, *, like=None):
        """(up, down) for a module's weight; `like` names the module whose down it shares."""
        shape = self.shapes[f"{module}.weight"]
        rng = np.random.default_rng(len(like or module))
        down = rng.standard_normal((RANK, *shape[1:]), np.float32)
        up = np.random.default_rng(list(module.encode())).standard_normal(
            (shape[0], RANK), np.float32
        )
        return up.reshape(*up.shape, *(1,) * (len(shape) - 2)), down

    def want(self, deltas):
        """Weights after adding {tensor: difference}."""
        assert deltas.keys() <= self.before.keys()
        return {n: w + deltas[n] if n in deltas else w for n, w in self.before.items()}


@functools.cache
def case(name):
    return Case(name)


def product(up, down):
    return (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(len(up), *down.shape[1:])


def write(folder, tensors, name="lora.safetensors", metadata=None):
    path = folder / name
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    save_file(tensors, str(path), metadata=metadata)
    return path


def same(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def close(got, want):
    """Equal up to rounding: a product of other rows may add its two terms, each at most 16 here, in another way."""
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=4e-6, rtol=1e-6, err_msg=name)


def plain(case, module, prefix="", dtype=np.float32):
    up, down = case.pair(module)
    return {
        f"{prefix}{module}.lora_A.weight": down.astype(dtype),
        f"{prefix}{module}.lora_B.weight": up.astype(dtype),
    }


def raw_file(folder, tensors):
    """A safetensors file with any dtype, float8 too, which older versions of the library do not write."""
    codes = {
        np.dtype(np.float64): "F64",
        np.dtype(np.float16): "F16",
        np.dtype(np.int8): "I8",
        np.dtype(ml_dtypes.bfloat16): "BF16",
        np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
        np.dtype(ml_dtypes.float8_e5m2): "F8_E5M2",
    }
    header, data = {}, b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": array.shape,
            "data_offsets": (len(data), end),
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path = folder / "raw.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
