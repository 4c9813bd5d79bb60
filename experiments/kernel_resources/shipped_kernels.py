"""The Mosaic kernels that are shipped, in the configurations that masks make them choose.

The `heuristics` of a kernel's module (pallas_kernels/OP/mosaic_gpu*.py) choose a configuration from
the head dim and the mask's blocks. Each distinct answer is a case with ragged lengths, and another
without, "whole": there nothing is masked, and block_mass takes another way. `shipped` asks for the
blocks in `PAIRS` in ragged bfloat16 and, in float16, for 128 x 128 ragged with head dim 64, and for those
in `SQUARES`, which choose every structure, whole with head dim 128; `everything` for all combinations.
All have the size of S1 of `gpu_check.shapes`: compilers make other code of a toy's constants, without its spills.
"""

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import pallas_kernels
from experiments.kernel_resources import deviceless
from pallas_kernels import BlockMask

HEAD_DIMS = (64, 128)
DTYPES = ("bfloat16", "float16")
BLOCKS = (64, 128, 192, 256, 384)
PAIRS = ((64, 64), (64, 128), (128, 64), (128, 128), (192, 192), (256, 256), (384, 384))
SQUARES = tuple(pair for pair in PAIRS if pair[0] == pair[1])
_TOKENS, _HEADS = (
    115_200,
    24,
)  # of the problem that is compiled; every block size divides the tokens
_LISTED = 27  # blocks in a row


def modules() -> list[str]:
    """Names of the modules that hold Mosaic kernels."""
    root = Path(pallas_kernels.__file__).parent
    files = sorted(root.glob("*/mosaic_gpu*.py"))
    holding = [path for path in files if "plgpu.kernel(" in path.read_text(encoding="utf-8")]
    return [f"pallas_kernels.{path.parent.name}.{path.stem}" for path in holding]


def of_module(name: str, *, everything: bool = False) -> list[deviceless.Case]:
    """What a module ships: (name, function, abstract arguments) of every distinct configuration.

    Raises:
      KeyError: this file does not know the module; add it to `_KNOWN`.
      NotImplementedError: this jax is too old for the kernels.
    """
    deviceless.refuse_old_jax()
    title, extra, problem = _KNOWN[name]
    heuristics = importlib.import_module(name).heuristics
    pairs = (tuple(itertools.product(BLOCKS, repeat=2)) if everything else PAIRS) + extra
    asked = {("bfloat16", True): (HEAD_DIMS, pairs)}
    if everything:
        asked |= dict.fromkeys(itertools.product(DTYPES, (True, False)), (HEAD_DIMS, pairs))
    else:
        asked["float16", True] = (64,), ((128, 128),)
        asked["float16", False] = (128,), SQUARES
    found: dict[str, deviceless.Case] = {}
    for (dtype, ragged), geometries in asked.items():
        for dim, pair in itertools.product(*geometries):
            config = _text(heuristics(dim, *pair))
            key = f"{title}, D {dim}, {config}, {dtype}" + ("" if ragged else ", whole")
            if key not in found:
                function, arguments = problem(dim, dtype, *pair, ragged)
                found[key] = key, deviceless.as_on_hopper(function), arguments
    return list(found.values())


def shipped() -> Iterator[deviceless.Case]:
    """The cases of all modules that tests compile and the README shows."""
    for name in modules():
        yield from of_module(name)


def everything() -> Iterator[deviceless.Case]:
    """All cases of all modules; minutes of compilation."""
    for name in modules():
        yield from of_module(name, everything=True)


def _text(config: Any) -> str:
    """A configuration in one line: numbers with their names, flags where they are set."""
    if isinstance(config, tuple):
        return "; ".join(map(_text, config))
    fields = dataclasses.asdict(config).items()
    return " ".join(k if v is True else f"{k}={v}" for k, v in fields if v is not False)


def _inputs(dim: int, dtype: str, block_q: int, block_kv: int, ragged: bool):
    """q, k, v and a mask with lists for every head, ragged or whole, all abstract."""
    tokens = jax.ShapeDtypeStruct((1, _TOKENS, _HEADS, dim), dtype)
    num_q, num_kv = _TOKENS // block_q, _TOKENS // block_kv

    def numbers(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    mask = BlockMask(
        numbers(1, _HEADS, num_q, _LISTED),
        numbers(1, _HEADS, num_q),
        q_lengths=numbers(1, 1, num_q) if ragged else None,
        kv_lengths=numbers(1, 1, num_kv) if ragged else None,
        block_q=block_q,
        block_kv=block_kv,
        num_kv_blocks=num_kv,
    )
    return tokens, tokens, tokens, mask


def _forward_problem(dim, dtype, block_q, block_kv, ragged):
    def forward(q, k, v, mask):
        module = importlib.import_module("pallas_kernels.block_sparse_attention.mosaic_gpu")
        return module.block_sparse_attention(q, k, v, mask, scale=dim**-0.5)

    return forward, _inputs(dim, dtype, block_q, block_kv, ragged)


def _backward_problem(dim, dtype, block_q, block_kv, ragged):
    inputs = _inputs(dim, dtype, block_q, block_kv, ragged)

    def backward(q, k, v, mask, out, lse, d_out, d_lse):
        module = importlib.import_module("pallas_kernels.block_sparse_attention.mosaic_gpu_vjp")
        return module.backward(dim**-0.5, q, k, v, out, lse, d_out, d_lse, mask)

    lse = jax.ShapeDtypeStruct((1, _HEADS, inputs[0].shape[1]), jnp.float32)
    return backward, (*inputs, inputs[0], lse, inputs[0], lse)


def _mass_problem(dim, dtype, block_q, block_kv, ragged):
    def run(q, k, lse, q_lengths, kv_lengths):
        module = importlib.import_module("pallas_kernels.block_mass.mosaic_gpu")
        return module.block_mass(
            q, k, lse, block_q=block_q, block_kv=block_kv, scale=dim**-0.5,
            q_lengths=q_lengths, kv_lengths=kv_lengths,
        )  # fmt: skip

    q, k, _, mask = _inputs(dim, dtype, block_q, block_kv, ragged)
    lse = jax.ShapeDtypeStruct((1, _HEADS, q.shape[1]), jnp.float32)
    return run, (q, k, lse, mask.q_lengths, mask.kv_lengths)


# Module -> title; pairs of blocks beside the usual ones; what makes a function and its arguments.
_KNOWN: dict[str, tuple[str, tuple[tuple[int, int], ...], Callable[..., Any]]] = {
    "pallas_kernels.block_sparse_attention.mosaic_gpu": ("forward", (), _forward_problem),
    "pallas_kernels.block_sparse_attention.mosaic_gpu_vjp": ("backward", (), _backward_problem),
    "pallas_kernels.block_mass.mosaic_gpu": (
        "block_mass",
        ((32, 32), (384, 128), (64, 192), (192, 128)),
        _mass_problem,
    ),
}
