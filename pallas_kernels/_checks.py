"""Checks that the public operations share; every error names the value, the rule and the remedy."""

import math

import jax
import jax.numpy as jnp
import numpy as np

_DTYPES = tuple(jnp.dtype(name) for name in ("float32", "bfloat16", "float16"))


def check_same_attention_inputs(q: jax.Array, **others: jax.Array) -> None:
    """q is [B, Lq, H, D]; every other array is [B, Lk, H, D] with one Lk; one dtype for all."""
    for name, x in {"q": q, **others}.items():
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {x.shape}; it must be [B, L, H, D]")
        if 0 in x.shape:
            raise ValueError(f"{name} has shape {x.shape}; every axis must hold at least one entry")
        check_dtype(name, x)
        if x.dtype != q.dtype:
            raise ValueError(
                f"{name} has dtype {x.dtype} and q has {q.dtype}; cast them to one dtype"
            )
        if (x.shape[0], *x.shape[2:]) != (q.shape[0], *q.shape[2:]):
            raise ValueError(
                f"{name} has shape {x.shape} and q {q.shape}; batch, heads and head dim must agree"
            )
    shapes = {name: x.shape for name, x in others.items()}
    if len({shape[1] for shape in shapes.values()}) > 1:
        raise ValueError(f"keys and values must have one length, got shapes {shapes}")


def check_dtype(name: str, x: jax.Array) -> None:
    """float32, bfloat16 or float16; float64, which JAX_ENABLE_X64 makes the default, is not."""
    if x.dtype not in _DTYPES:
        raise ValueError(
            f"{name} has dtype {x.dtype}; cast it to one of {', '.join(map(str, _DTYPES))}"
        )


def resolve_scale(scale: float | None, head_dim: int) -> float:
    """The factor on the logits: D**-0.5 unless given; a static number."""
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, jax.core.Tracer):
        raise ValueError(
            "scale is traced, but it must be a Python number; multiply q by a traced scale instead"
        )
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale} must be finite; None is head_dim ** -0.5")
    return float(scale)


def check_blocks(axis: str, length: int, block: int, count: int) -> None:
    """`count` blocks of `block` tokens hold exactly the `length` tokens of an axis."""
    if count != -(-length // block):
        raise ValueError(
            f"the mask has {count} {axis} blocks of {block} tokens, but {length} tokens make "
            f"{-(-length // block)}; build the mask for this length"
        )


def check_leading_axes(name: str, leading: tuple[int, ...], q: jax.Array) -> None:
    """(B|1, H|1) broadcasts to the batch and heads of q."""
    batch, heads = q.shape[0], q.shape[2]
    if leading[0] not in (1, batch) or leading[1] not in (1, heads):
        raise ValueError(
            f"{name} is for (batch, heads) = {leading}, but q has ({batch}, {heads}); each axis "
            "must equal that of q, or be 1 to broadcast"
        )


def refuse_skipping(name: str, skip_below: float | None) -> None:
    """NotImplementedError where a kernel that computes every listed block is to leave some out."""
    if skip_below is not None:
        raise NotImplementedError(
            f"{skip_below=}: {name} computes every listed block and cannot skip by its logits; "
            "choose implementation 'xla' or 'reference', or leave skip_below out"
        )


def check_lengths(
    name: str, lengths: jax.Array | np.ndarray | None, shape: tuple[int, ...], limit: int
) -> None:
    """Lengths are int32 of `shape` (0 in it stands for any size) and, if concrete, within limit."""
    if lengths is None:
        return
    fits = lengths.ndim == len(shape) and all(
        want in (0, have) for want, have in zip(shape, lengths.shape, strict=True)
    )
    if not fits or lengths.dtype != np.int32:
        wanted = str(shape).replace("0", "any")
        raise ValueError(
            f"{name} is {lengths.dtype} {lengths.shape}; it must be int32 of shape {wanted}"
        )
    if isinstance(lengths, jax.core.Tracer):
        return
    values = np.asarray(lengths)  # not jnp: under jit it would trace even what is concrete
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > limit:
        raise ValueError(f"{name} spans {low}..{high}; it must stay within 0..{limit}")
