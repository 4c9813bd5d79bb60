"""Dense attention through cuDNN, as `jax.nn` wraps it: NVIDIA GPUs, 16-bit inputs.

`jax.nn` drops the gradient of the log-sum-exp; here it is added, from products that are
themselves attention: d lse / d q = scale * softmax(scale q k^T) k.
"""

import functools

import jax
import jax.numpy as jnp

from .. import _padding

_IMPLEMENTATION = "cudnn"


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """See `api.dense_attention`."""
    _refuse_unless_supported(q)
    live = _padding.real_of_rows(q_lengths, q.shape[1])
    if kv_lengths is not None:
        some = (kv_lengths > 0)[:, None, None]
        live = some if live is None else live & some
    real_kv = _padding.real_of_rows(kv_lengths, k.shape[1])
    q, k, v = (_padding.zero(x, real) for x, real in ((q, live), (k, real_kv), (v, real_kv)))
    out, lse = _attention(scale, q, k, v, (q_lengths, kv_lengths))
    return _padding.zero(out, live), lse if live is None else jnp.where(live, lse, -jnp.inf)


def _refuse_unless_supported(q):
    if jax.default_backend() != "gpu":
        raise NotImplementedError(
            f"cudnn needs an NVIDIA GPU; this process runs on {jax.default_backend()}"
        )
    device = jax.devices()[0]
    if not str(getattr(device, "compute_capability", ""))[:1].isdigit():  # AMD's are names
        raise NotImplementedError(f"cudnn needs an NVIDIA GPU; this is {device.device_kind}")
    if q.dtype == jnp.float32:
        raise NotImplementedError("cudnn takes bfloat16 and float16, not float32")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(scale, q, k, v, lengths):
    return _call(scale, q, k, v, lengths)


def _call(scale, q, k, v, lengths):
    out, lse = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        query_seq_lengths=lengths[0],
        key_value_seq_lengths=lengths[1],
        implementation=_IMPLEMENTATION,
        return_residual=True,
    )
    return out, lse.astype(jnp.float32).swapaxes(1, 2)


def _forward(scale, q, k, v, lengths):
    q, k, v = (x.value for x in (q, k, v))
    lengths = jax.tree.map(lambda x: x.value, lengths, is_leaf=lambda x: hasattr(x, "perturbed"))
    return _call(scale, q, k, v, lengths), (q, k, v, lengths)


def _backward(scale, residuals, cotangents):
    q, k, v, lengths = residuals
    d_out, d_lse = cotangents
    dq, dk, dv = (jnp.zeros_like(x) for x in (q, k, v))
    if not isinstance(d_out, jax.custom_derivatives.SymbolicZero):
        vjp = jax.vjp(lambda *x: _call(scale, *x, lengths)[0], q, k, v)[1]
        dq, dk, dv = vjp(d_out)
    if not isinstance(d_lse, jax.custom_derivatives.SymbolicZero):
        weight = (d_lse * scale).swapaxes(1, 2)[..., None].astype(q.dtype)
        mean_key, vjp = jax.vjp(lambda v: _call(scale, q, k, v, lengths)[0], k)
        dq, dk = dq + weight * mean_key, dk + vjp(weight * q)[0]
    return dq, dk, dv, None


_attention.defvjp(_forward, _backward, symbolic_zeros=True)
