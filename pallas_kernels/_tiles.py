"""Arithmetic of one attention tile, shared by the plain-JAX implementations.

A tile is a batch of G small problems, [G, M, D] queries against [G, N, D] keys, sized so that its
logits stay in the processor's cache: on a CPU the time goes into writing logits to memory and
into exp, not into the matrix products. Logits are kept in base 2.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _padding

LOG2E = math.log2(math.e)
LN2 = math.log(2)

# 2**r = 1 + r * poly(r) on [-1/2, 1/2]; minimax, relative error 1e-7 before rounding.
_EXP2 = (0.6931469776, 0.2402224208, 0.0555073374, 0.0096715127, 0.0013264727)
_ROUND = np.float32(1.5 * 2**23)  # adding it leaves the nearest integer in the low mantissa bits

# Below this bound on |logit| (base 2) a row needs no shift: sums of 2**20 exponentials times
# values up to _TAME_VALUE stay finite, and the largest exponential is far from underflow.
_TAME_LOGIT = np.float32(64)
_TAME_VALUE = np.float32(2.0**40)


def exp2(x: jax.Array) -> jax.Array:
    """2**x in float32 for x <= 127, exactly 0 from x = -127 down; twice as fast as `jnp.exp2`."""
    x = jnp.maximum(x, np.float32(-127))
    n = lax.bitcast_convert_type(x + _ROUND, jnp.int32) - _ROUND.view(np.int32)
    r = x - n.astype(jnp.float32)
    p = np.float32(_EXP2[-1])
    for c in (*_EXP2[-2::-1], 1.0):
        p = p * r + np.float32(c)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(p, jnp.int32) + (n << 23), jnp.float32)


def narrow(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """float32 to `dtype`; to bfloat16 by adding half a unit and cutting, which XLA vectorises."""
    if dtype != jnp.bfloat16:
        return x.astype(dtype)
    bits = lax.bitcast_convert_type(x, jnp.uint32) + np.uint32(0x8000)
    return lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Einsum that accumulates in float32."""
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def logits(q: jax.Array, k: jax.Array, scale: float) -> jax.Array:
    """Base-2 logits, float32 [G, M, N], from q [G, M, D] and k [G, N, D]."""
    return dot("gmd,gnd->gmn", q, k) * np.float32(scale * LOG2E)


def longest(x: jax.Array) -> jax.Array:
    """Largest norm of the vectors of x [..., L, D]: float32 [...]."""
    return _norms(x).max(-1)


def untame(
    q: jax.Array, longest_key: jax.Array, longest_value: jax.Array, scale: float
) -> jax.Array:
    """Queries whose logits could leave the safe range: bool [...] from q [..., D].

    By Cauchy-Schwarz |q . k| <= |q| max |k|; where that bound is small, softmax needs no running
    maximum, and the pass over the logits that would find it is saved. NaN counts as untame.

    Args:
      q: [..., D].
      longest_key: float32, norm of the longest key that q may meet; broadcasts to [...].
      longest_value: float32, the same of the values.
      scale: factor on q . k.
    """
    bound = _norms(q) * (longest_key * np.float32(abs(scale) * LOG2E))
    return ~((bound <= _TAME_LOGIT) & (longest_value <= _TAME_VALUE))


def _norms(x):
    # As a product: XLA adds up a row number by number, a product does not.
    return jnp.sqrt(dot("...d,...d->...", x, x))


def attend(q, k, v, shift, bias, scale):
    """Row sums [G, M] of p = exp2(logits - shift + bias) and p v [G, M, D], float32.

    Args:
      q: [G, M, D].
      k: [G, N, D].
      v: [G, N, D].
      shift: float32 [G, M], subtracted from the logits of a row.
      bias: float32 [G, N], 0 for a key that counts and -inf for one that does not; or None.
      scale: factor on q . k.
    """
    p = _weights(q, k, (shift,), bias, scale)
    return p.sum(-1), dot("gmn,gnd->gmd", narrow(p, v.dtype), v)


def normalise(total: jax.Array, acc: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Output rows and the base-2 logarithm of their sums; 0 and +inf for a row without keys."""
    kept = total > 0.0
    total = jnp.where(kept, total, 1.0)
    return acc / total[..., None], jnp.where(kept, jnp.log2(total), jnp.inf)


def log_sum_exp(shift: jax.Array, log_total: jax.Array) -> jax.Array:
    """Natural log-sum-exp of rows shifted and summed in base 2; -inf for a row without keys."""
    return jnp.where(log_total < jnp.inf, (shift + log_total) * np.float32(LN2), -jnp.inf)


def attend_vjp(q, k, v, d_out, shift, log_total, delta, bias, scale):
    """Contributions of one tile to the gradients: dq [G, M, D], dk and dv [G, D, N], float32.

    dk and dv come transposed, so that no large array is transposed for a product; dq and dk lack
    the factor `scale`.

    Args:
      q: [G, M, D].
      k: [G, N, D].
      v: [G, N, D].
      d_out: [G, M, D], cotangent of the output.
      shift: float32 [G, M], as in `attend`.
      log_total: float32 [G, M], base-2 logarithm of the row sums of `attend`; +inf removes a row.
        Kept apart from `shift`: their sum, the log-sum-exp, would round off what is small.
      delta: float32 [G, M], sum of d_out * out over D, less the cotangent of lse.
      bias: as in `attend`.
      scale: factor on q . k.
    """
    p = _weights(q, k, (shift, log_total), bias, scale)
    d_logits = narrow(p * (dot("gmd,gnd->gmn", d_out, v) - delta[..., None]), q.dtype)
    dq = dot("gmn,gnd->gmd", d_logits, k)
    dk = dot("gmd,gmn->gdn", q, d_logits)
    dv = dot("gmd,gmn->gdn", d_out, narrow(p, v.dtype))
    return dq, dk, dv


def _weights(q, k, shifts, bias, scale):
    x = logits(q, k, scale)
    for shift in shifts:
        x = x - shift[..., None]
    return exp2(x if bias is None else x + bias[:, None])


def heads_together(q: jax.Array) -> int:
    """Heads of a tile: as many as divide all those of q [B, L, H, D], eight at most."""
    return max(n for n in range(1, 9) if q.shape[0] * q.shape[2] % n == 0)


def to_tiles(x: jax.Array, heads: int, size: int, fill=0) -> jax.Array:
    """[B, L, H, D] to [groups of heads, tiles, heads, size, D], with `fill` after the end."""
    b, length, h, d = x.shape
    tiles = -(-length // size)
    x = _padding.lengthen(x, tiles * size, fill)
    x = x.swapaxes(1, 2).reshape(b * h // heads, heads, tiles, size, d).swapaxes(1, 2)
    # Transposed here, once, and not again by every user with a layout of its own.
    return lax.optimization_barrier(x)
