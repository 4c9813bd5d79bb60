"""From measured errors to a choice for each head: STA's rule, Sparse-vDiT's, and its calibration.

Arrays are of NumPy or JAX. An error has axes [..., C, H]: candidates, heads; a choice is the
candidate's index, -1 for dense attention. Ties go to the lowest index.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


def least_error(error: np.ndarray) -> np.ndarray:
    """STA's mask search: the candidate of least mean error over prompts, int [..., H].

    No term for cost: candidates should be about equally sparse, as the paper's are (80 to 90 %).

    Args:
      error: [prompts, ..., C, H].

    Reference: STA (arXiv 2502.04507), Algorithm 1.
    """
    return np.argmin(error.mean(0), axis=-2)


@dataclasses.dataclass(frozen=True)
class SparseVditRule:
    """Sparse-vDiT's loss ``L_i = error_i + lam * (1 - S_i)`` and its threshold.

    A head takes the candidate of least loss, or dense attention where every loss exceeds `epsilon`.

    Differs from the paper (arXiv 2506.03065, Eq. 2 and Algorithm 1): Algorithm 1 prints
    ``+ lam * S_i``, which would reward density; Eq. 2 is what is meant. The scale of its errors is
    not given, so neither `epsilon` nor `lam` carries over between implementations: see
    `calibrate_epsilon`, and `relative`.

    Attributes:
      costs: ``1 - S_i`` of each candidate: its density, or its measured cost relative to dense
        attention (`CostTable`).
      lam: weight of the cost.
      epsilon: largest loss at which a head may be sparse.
      relative: divide each head's errors by the mean square of its output, so that leaving a head
        out has the error 1. False is the paper's mean squared error.
    """

    costs: tuple[float, ...]
    lam: float = 0.5
    epsilon: float = 1.0
    relative: bool = False

    def __post_init__(self):
        object.__setattr__(self, "costs", tuple(float(c) for c in self.costs))
        if not 0 <= self.lam < math.inf:
            raise ValueError(
                f"lam={self.lam} must not be negative, and finite: it is the price of cost"
            )
        if math.isnan(self.epsilon) or not np.isfinite(self.costs).all():
            raise ValueError(
                f"epsilon={self.epsilon} must be a number and costs={self.costs} finite ones; "
                "nothing compares with nan"
            )

    def loss(self, error, power):
        """L_i of each candidate and head.

        Args:
          error: [..., C, H].
          power: [..., H], mean square of the dense outputs; read where `relative`.
        """
        if self.relative:
            error = error / _at_least_tiny(power)[..., None, :]
        cost = np.asarray(self.costs, np.float32)
        shape = (1,) * (error.ndim - 2) + (len(self.costs), 1)
        return error + np.asarray(self.lam, np.float32) * cost.reshape(shape)

    def choose(self, error, power):
        """The candidate of each head, int32 [..., H]; -1 is dense attention."""
        loss = self.loss(error, power)
        xp = jnp if isinstance(loss, jax.Array) else np
        best = xp.argmin(loss, axis=-2).astype(np.int32)
        return xp.where(loss.min(-2) > self.epsilon, np.int32(-1), best)


def calibrate_epsilon(
    error: np.ndarray, power: np.ndarray, rule: SparseVditRule, densities, *, target: float
) -> SparseVditRule:
    """`rule` with the largest useful epsilon whose choices have a mean density of `target` at least.

    The mean density falls in steps as epsilon grows, one step for each head; of the two values
    around `target` the one that is not below it is taken. With the sequential feed the errors
    themselves depend on what was chosen before, so the density of a new search differs somewhat:
    search again with the result until it is near enough.

    Args:
      error: [..., C, H] of a search (mean over prompts).
      power: [..., H].
      rule: costs, lam and relative; its epsilon is not read.
      densities: density of each candidate; dense attention has 1.
      target: mean density over all heads.

    Raises:
      ValueError: even with every head in its best candidate the density exceeds `target`.
    """
    loss = rule.loss(np.asarray(error, np.float64), np.asarray(power, np.float64))
    best = loss.argmin(-2)
    density = np.asarray(densities, np.float64)[best].ravel()
    least = loss.min(-2).ravel()
    order = np.argsort(least, kind="stable")
    # Mean density when the first n heads of this order have left full attention.
    after = 1 - np.concatenate([[0], np.cumsum(1 - density[order])]) / density.size
    if after[-1] > target + 1e-9:
        raise ValueError(
            f"target={target} is below {after[-1]:.4f}, the density when no head is full; add "
            "sparser candidates or raise lam"
        )
    count = int(np.flatnonzero(after >= target - 1e-9).max())
    epsilon = least[order[count - 1]] if count else np.nextafter(least[order[0]], -np.inf)
    return dataclasses.replace(rule, epsilon=float(epsilon))


def shared_over_steps(error: np.ndarray, axis: int = 0) -> np.ndarray:
    """Errors averaged over `axis` (steps): one choice for all steps of a (layer, head)."""
    return error.mean(axis)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far choices agree along one axis, beside what chance would give.

    Attributes:
      share: [...] share of pairs along the axis that made the same choice, for each entry of the
        other axes.
      chance: the same for pairs drawn from all entries alike: what no dependence on layer and head
        would give.
    """

    share: np.ndarray
    chance: float

    @property
    def mean(self) -> float:
        """Mean share of agreeing pairs."""
        return float(self.share.mean())

    @property
    def kappa(self) -> float:
        """(mean - chance) / (1 - chance): 1 is perfect, 0 is chance (Fleiss 1971)."""
        return 1.0 if self.chance == 1 else (self.mean - self.chance) / (1 - self.chance)


def agreement(choice: np.ndarray, axis: int) -> Agreement:
    """Whether choices along `axis` (prompts, or steps) agree; ValueError for fewer than two."""
    choice = np.moveaxis(np.asarray(choice), axis, 0)
    raters = choice.shape[0]
    if raters < 2:
        raise ValueError(f"axis {axis} of {choice.shape} has one entry; agreement needs two")
    kinds = np.unique(choice)
    votes = np.stack([(choice == kind).sum(0) for kind in kinds]).astype(float)
    share = (votes * (votes - 1)).sum(0) / (raters * (raters - 1))
    frequency = votes.reshape(len(kinds), -1).sum(1) / choice.size
    return Agreement(share, float((frequency**2).sum()))


def _at_least_tiny(x):
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.maximum(x, np.asarray(np.finfo(np.float32).tiny, x.dtype))
