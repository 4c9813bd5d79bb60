"""Whole denoising steps of HunyuanVideo at its usual resolution, with random weights."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.full_size.published_clips import CASES, FullSize
from experiments.gpu_check.session import Session
from experiments.gpu_check.shapes import Case
from experiments.timing import timer
from models.pipelines import Clip
from sparsevdit_jax import Phase

_HUNYUAN = next(case for case in CASES if case.name == "hunyuanvideo")


def measure(session: Session, method: str) -> None:
    """Times one step from latents to latents, all of it one program; `method` as in `FullSize.denoiser`."""
    case = _small() if session.config.dry_run else _HUNYUAN
    denoiser = case.denoiser(method)
    denoiser.implementation = session.chosen
    phase = Phase.DENSE if method == "dense" else Phase.REUSE
    step, shapes = denoiser.program(case.model(), case.conditions(), phase)
    arguments = drawn(shapes)
    tokens = denoiser.grid.num_tokens
    described = Case(
        name=case.name, heads=case.transformer.num_heads, head_dim=case.transformer.head_dim, length=tokens
    )  # fmt: skip
    timers = {f"denoising step, {method}": timer(jax.jit(step), *arguments)}
    session.race(described, case.density(method), timers, {}, clip=str(case.clip))


def drawn(shapes: Any) -> Any:
    """Small random numbers in the place of shapes, and ones where they are integers; all else stays."""
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    def draw(key, leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.ones(leaf.shape, leaf.dtype)
        # On the device: 26 GB of weights would take minutes to come from the host.
        return _normal(key, leaf.shape, leaf.dtype)

    return tree.unflatten([draw(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return (0.02 * jax.random.normal(key, shape)).astype(dtype)


def _small() -> FullSize:
    """One block, for any machine."""
    sizes = {"num_layers": 0, "num_single_layers": 1, "num_refiner_layers": 0}
    transformer = dataclasses.replace(_HUNYUAN.transformer, num_attention_heads=2, **sizes)
    return dataclasses.replace(_HUNYUAN, transformer=transformer, clip=Clip(9, 64, 64))
