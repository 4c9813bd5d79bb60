"""Computes attention in float64 on the host, for some rows of a problem of any size, and error budgets."""

import jax
import ml_dtypes
import numpy as np

from pallas_kernels import BlockMask

# Roundings that a relative error may hold. lse and mass never leave float32; products chain in d_*.
_ROUNDINGS = {"out": 2, "lse": 128, "mass": 128, "d_q": 4, "d_k": 4, "d_v": 4}
_SINGLE = float(np.finfo(np.float32).eps)


def check_close(name: str, got, exact, dtype) -> float:
    """The relative error ‖got - exact‖ / ‖exact‖, when it and the worst entry are within budget.

    The budget of the norm is a few roundings of `dtype` (or float32, where nothing is stored in
    less), that of an entry eight times as much of the largest entry.

    Args:
      name: "out", "lse", "mass", "d_q", "d_k" or "d_v".
      got: what the kernel gave.
      exact: what it should be.
      dtype: of the kernel's inputs; the operands of all products have its precision.

    Raises:
      ArithmeticError: an entry is NaN or infinite, -inf stands elsewhere, or a budget is exceeded.
    """
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    if got.shape != exact.shape:
        raise ArithmeticError(f"{name} has shape {got.shape}, not {exact.shape}")
    empty = np.isneginf(exact)
    if not (np.isneginf(got) == empty).all():
        raise ArithmeticError(f"{name}: -inf stands in other places than it should")
    got, exact = np.where(empty, 0, got), np.where(empty, 0, exact)
    if not np.isfinite(got).all():
        raise ArithmeticError(f"{name} holds NaN or inf: an entry was never written, or is wrong")
    eps = _SINGLE if name in ("lse", "mass") else max(_eps(dtype), 32 * _SINGLE)
    budget = _ROUNDINGS[name] * eps
    largest = np.abs(exact).max(initial=0.0)
    norm = np.linalg.norm(exact)
    error = np.linalg.norm(got - exact) / norm if norm else np.linalg.norm(got)
    worst = np.abs(got - exact).max(initial=0.0)
    if not (error <= budget and worst <= 8 * budget * largest):
        raise ArithmeticError(
            f"{name} in {dtype}: relative error {error:.2e} (budget {budget:.2e}), worst entry off "
            f"by {worst:.2e} of {largest:.2e}"
        )
    return float(error)


class Rows:
    """Some query tokens of one head in float64, with every key they read.

    Args:
      q: [B, Lq, H, D], any dtype, on any device; likewise k, v and d_out.
      mask: its lists and lengths.
      at: (batch, head).
      queries: indices of the tokens.
      scale: factor on the logits.
    """

    def __init__(self, q, k, v, mask: BlockMask, at: tuple[int, int], queries, scale: float):
        self.at, self.queries, self.scale = at, np.asarray(queries), scale
        self.q, self.k, self.v = _head(q, at)[self.queries], _head(k, at), _head(v, at)
        self.keep = kept_keys(mask, at, self.queries, len(self.k))
        self.logits = np.where(self.keep, scale * self.q @ self.k.T, -np.inf)
        top = np.where(self.keep.any(1), self.logits.max(1), 0)[:, None]
        weights = np.exp(self.logits - top)
        total = weights.sum(1, keepdims=True)
        live = np.where(total > 0, total, 1)
        self.p = weights / live
        self.out = self.p @ np.where(self.keep.any(0)[:, None], self.v, 0)
        self.lse = np.where(total > 0, np.log(live) + top, -np.inf)[:, 0]

    def d_query(self, d_out, d_lse) -> np.ndarray:
        """The gradient of these queries, [rows, D]."""
        d_out = _head(d_out, self.at)[self.queries]
        d_p = d_out @ np.where(self.keep.any(0)[:, None], self.v, 0).T
        d_lse = np.asarray(d_lse[self.at], np.float64)[self.queries]
        inner = d_p - (self.p * d_p).sum(1, keepdims=True) + d_lse[:, None]
        return self.scale * (self.p * inner) @ self.k


def key_gradients(q, k, v, mask: BlockMask, at, keys, scale, out, lse, d_out, d_lse):
    """(d_key, d_value) of some key tokens of one head, [tokens, D], float64.

    `out` and `lse` of all queries come from the kernel, whose rows `Rows` checks by itself.
    """
    keys = np.asarray(keys)
    q, d_out, out = (_head(x, at) for x in (q, d_out, out))
    k, v = _head(k, at)[keys], _head(v, at)[keys]
    keep = kept_keys(mask.transpose(), at, keys, len(q)).T
    lse, d_lse = (np.asarray(x[at], np.float64)[:, None] for x in (lse, d_lse))
    live = keep & np.isfinite(lse)
    p = np.exp(np.where(live, scale * q @ k.T - np.where(np.isfinite(lse), lse, 0), -np.inf))
    inner = p * (d_out @ v.T - (d_out * out).sum(1, keepdims=True) + d_lse)
    return scale * inner.T @ q, p.T @ d_out


def kept_keys(mask: BlockMask, at: tuple[int, int], queries, length: int) -> np.ndarray:
    """Bool [len(queries), length]: the keys that these queries of one head read."""

    def row(array, index):
        b, h = (min(i, n - 1) for i, n in zip(at, array.shape[:2], strict=True))
        return np.asarray(array[b, h])[index]

    blocks = queries // mask.block_q
    counts, lists = row(mask.kv_counts, blocks), row(mask.kv_indices, blocks)
    keep = np.zeros((len(queries), mask.num_kv_blocks), bool)
    for i, (count, listed) in enumerate(zip(counts, lists, strict=True)):
        keep[i, slice(None) if count == mask.num_kv_blocks else listed[:count]] = True
    tokens = keep.repeat(mask.block_kv, 1)[:, :length]
    if mask.kv_lengths is not None:
        sizes = row(mask.kv_lengths, slice(None))
        real = np.arange(mask.block_kv) < sizes[:, None]
        tokens &= real.reshape(-1)[:length]
    if mask.q_lengths is not None:
        tokens &= (queries % mask.block_q < row(mask.q_lengths, blocks))[:, None]
    return tokens


def _eps(dtype) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def _head(x, at) -> np.ndarray:
    """One head of [B, L, H, D] on the host, [L, D] float64; padding may hold anything finite."""
    return np.asarray(jax.device_get(x[at[0], :, at[1]]), np.float64)
