"""Check: one array of ours beside one of a vector file, with what they may differ by and why."""

import dataclasses
from typing import Any

import numpy as np

from tests.tolerances import rounding


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
      what: name of what is compared.
      error: how far ours is from the file's; inf where shapes or infinities differ.
      allowed: how far it may be.
      why: where `allowed` comes from.
    """

    what: str
    error: float
    allowed: float
    why: str

    @property
    def ok(self) -> bool:
        """Whether the error is allowed; NaN never is."""
        return self.error <= self.allowed

    @property
    def share(self) -> float:
        """Error as a share of what is allowed: the worst check of a file has the largest."""
        if self.allowed:
            return self.error / self.allowed
        return 0.0 if self.error == 0 else np.inf


def same(what: str, got: Any, want: Any) -> Check:
    """Masks, orders, decisions: every entry is equal. The error counts those that are not."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return Check(what, np.inf, 0, f"shape {got.shape} is not {want.shape}")
    return Check(what, float(np.count_nonzero(got != want)), 0, "decisions are equal or wrong")


def close(what: str, got: Any, want: Any, roundings: float) -> Check:
    """Numbers computed in float32, beside the file's in float64 or in another float32 program.

    Args:
      what: name.
      got: ours.
      want: the file's, of the same shape; infinities stand in the same places.
      roundings: in a row, counted as `tests.tolerances.rounding` says; the largest of many errors lies
        at five times their root mean square.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return Check(what, np.inf, 0, f"shape {got.shape} is not {want.shape}")
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite]):
        return Check(what, np.inf, 0, "infinities stand in other places")
    size = np.abs(want[finite]).max(initial=0.0)
    why = f"{roundings:.0f} roundings in float32 of values up to {size:.3g}"
    error = np.abs(got[finite] - want[finite]).max(initial=0.0)
    return Check(what, float(error), 5 * rounding(roundings) * float(size), why)


def softmax_roundings(q: Any, k: Any, scale: float | None = None, *, gradient: bool = False):
    """Roundings in a row of attention of q to k, both [..., L, D] (the files' [B, H, S, D]).

    Logits, softmax and mean of the values, and what the largest logit adds: exp turns its absolute
    error into a relative one. A gradient passes everything again, by both operands.
    """
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    largest = scale * np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max()
    once = 8 + k.shape[-1] / 2 + k.shape[-2] / 3 + k.shape[-2] / 2 + largest**2
    return 3 * once if gradient else once
