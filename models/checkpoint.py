"""Weights of a Flax NNX module in one safetensors file, its configuration in the file's metadata."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import save_file


def parameter_names(module: nnx.Module) -> dict[str, nnx.Param]:
    """Every parameter of `module` by its name in a file: its dotted path, such as "blocks.0.up.kernel", in which the
    parts that the module's `FILE_NAMES` lists are replaced."""
    names = {}
    for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        name = ".".join(map(str, path))
        for ours, stored in getattr(module, "FILE_NAMES", {}).items():
            name = name.replace(ours, stored)
        names[name] = leaf
    return names


def save_weights(path: str | Path, module: nnx.Module, *, config: dict, dtype=None) -> None:
    """Writes all parameters (cast to `dtype` if given) and `config` (JSON-able) to `path`.

    Raises:
      FileExistsError: `path` exists; weights are never overwritten without a word.
    """
    if Path(path).exists():
        raise FileExistsError(
            f"{path} exists and is not overwritten; remove it or choose another name"
        )
    arrays = {
        name: np.asarray(leaf[...].astype(dtype or leaf[...].dtype))
        for name, leaf in parameter_names(module).items()
    }
    save_file(arrays, str(path), metadata={"config": json.dumps(config)})


def read_config(path: str | Path) -> dict:
    """The configuration that `save_weights` stored.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not one that `save_weights` wrote.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; give the path of a .safetensors file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            return json.loads((file.metadata() or {})["config"])
    except Exception as problem:
        raise ValueError(
            f"{path} is not a safetensors file with a configuration in its metadata ({problem}); "
            "use a file written by models.checkpoint.save_weights"
        ) from problem


def load_weights(path: str | Path, module: nnx.Module) -> None:
    """Reads `path` into `module` (one of `nnx.eval_shape` too), tensor by tensor, keeping the module's dtypes.

    Raises:
      ValueError: names or shapes disagree; the message lists all of them.
    """
    parameters = parameter_names(module)
    with safe_open(str(path), framework="numpy") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        wanted = {name: tuple(leaf.shape) for name, leaf in parameters.items()}
        problems = [f"missing: {name}" for name in sorted(wanted.keys() - stored.keys())]
        problems += [f"unexpected: {name}" for name in sorted(stored.keys() - wanted.keys())]
        problems += [
            f"{name}: file has {stored[name]}, model needs {wanted[name]}"
            for name in sorted(wanted.keys() & stored.keys())
            if stored[name] != wanted[name]
        ]
        if problems:
            raise ValueError(f"{path} does not fit this model:\n  " + "\n  ".join(problems))
        for name, leaf in parameters.items():
            leaf.set_value(jnp.asarray(file.get_tensor(name)).astype(leaf.dtype))


def count_parameters(module: nnx.Module) -> int:
    """Number of scalars in all parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
