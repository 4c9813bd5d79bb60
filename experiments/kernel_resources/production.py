"""Attention problems of full size, forward, backward and block mass, and JAX's own kernel beside them.

The problems are those of `gpu_check.shapes`. Sliding tiles come with lists that are known when a program is made, as
layers have them; VSA's lists are arguments, for it chooses them as it runs; dense attention has none.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.gpu_check.shapes import CASES, Case
from experiments.kernel_resources import deviceless
from pallas_kernels import BlockMask

NAMES = ("S1", "S6", "V1", "V4", "D1_16384_128", "D1_16384_64")
JAX_NAMES = ("D1_16384_128", "D1_16384_64")
_MODULE = "jax.experimental.pallas.ops.gpu.attention_mgpu"


def ours() -> Iterator[deviceless.Case]:
    """Attention with its gradients, and block mass.

    Raises:
      NotImplementedError: this jax is too old for the kernels.
    """
    deviceless.refuse_old_jax()
    for name in NAMES:
        case = CASES[name]
        yield f"{name}, attention", deviceless.as_on_hopper(_attention(case)), _arguments(case)
        if case.grid or case.top_k:
            yield f"{name}, block_mass", *_mass(case)


def of_jax() -> Iterator[deviceless.Case]:
    """JAX's dense attention with its gradients, in the float16 that it is written for.

    Raises:
      NotImplementedError: this jax is too old for the kernels.
    """
    deviceless.refuse_old_jax()
    for name in JAX_NAMES:
        case = CASES[name]
        shape = case.batch, case.length, case.heads, case.head_dim
        yield f"{name}, JAX", _jax_attention, (jax.ShapeDtypeStruct(shape, jnp.float16),) * 4


def _tokens(case: Case) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """q (or k, v, out) and lse."""
    shape = case.batch, case.slots, case.heads, case.head_dim
    rows = case.batch, case.heads, case.slots
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16), jax.ShapeDtypeStruct(rows, jnp.float32)


def _arguments(case: Case) -> tuple[Any, ...]:
    tokens, lse = _tokens(case)
    lists = () if case.grid or case.top_k is None else (_abstract_mask(case),)
    return tokens, tokens, tokens, tokens, lse, *lists


def _abstract_mask(case: Case) -> BlockMask:
    blocks = case.length // case.block
    counts = 1, case.heads, blocks
    return BlockMask(
        jax.ShapeDtypeStruct((*counts, case.top_k), jnp.int32),
        jax.ShapeDtypeStruct(counts, jnp.int32),
        block_q=case.block,
        block_kv=case.block,
        num_kv_blocks=blocks,
    )


def _attention(case: Case) -> Callable[..., Any]:
    """out, lse and the gradients, all through the public operations."""
    operation = "block_sparse_attention" if case.grid or case.top_k else "dense_attention"

    def run(q, k, v, d_out, d_lse, *lists):
        module = importlib.import_module(f"pallas_kernels.{operation}.mosaic_gpu")
        attend = getattr(module, operation)
        scale = case.head_dim**-0.5

        def forward(q, k, v):
            if operation == "dense_attention":
                return attend(q, k, v, scale=scale, q_lengths=None, kv_lengths=None)
            return attend(q, k, v, *(lists or (case.mask(),)), scale=scale)

        results, gradients = jax.vjp(forward, q, k, v)
        return results, gradients((d_out, d_lse))

    return run


def _mass(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    tokens, lse = _tokens(case)

    def run(q, k, lse):
        module = importlib.import_module("pallas_kernels.block_mass.mosaic_gpu")
        mask = case.mask() if case.grid else _abstract_mask(case)
        return module.block_mass(
            q, k, lse, block_q=mask.block_q, block_kv=mask.block_kv,
            scale=case.head_dim**-0.5, q_lengths=mask.q_lengths, kv_lengths=mask.kv_lengths,
        )  # fmt: skip

    return deviceless.as_on_hopper(run), (tokens, tokens, lse)


def _jax_attention(q, k, v, d_out):
    module = importlib.import_module(_MODULE)
    backward = dict.fromkeys(("block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), 64)
    config = module.TuningConfig(
        block_q=64, block_kv=128, max_concurrent_steps=2, compute_wgs_bwd=2, **backward
    )
    out, gradients = jax.vjp(lambda q, k, v: module.attention(q, k, v, config), q, k, v)
    return out, gradients(d_out)
