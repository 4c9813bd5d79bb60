"""UniPC, a multistep predictor-corrector, along the path of flow matching: Wan's scheduler."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.config import require
from models.flow_matching import add_noise, shift_time
from models.schedulers.scheduler import (
    Scheduler,
    check_levels,
    check_shift,
    check_sigmas,
    check_step,
    check_steps,
    row,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPCMultistepConfig:
    """Fields and defaults of diffusers' UniPCMultistepScheduler.

    Its defaults are those of image models and are refused: a flow model's file says ``use_flow_sigmas`` and
    ``prediction_type="flow_prediction"``. `beta_*`, `trained_betas`, `rescale_betas_zero_snr`, `timestep_spacing`,
    `steps_offset`, `sigma_min`, `sigma_max`, `time_shift_type`, `dynamic_thresholding_ratio` and
    `sample_max_value` have no effect with flow sigmas.
    """

    MAY_BE_ZERO: ClassVar = ("disable_corrector",)

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    solver_order: int = 2
    prediction_type: str = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    predict_x0: bool = True
    solver_type: str = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()
    solver_p: None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0
    timestep_spacing: str = "linspace"
    steps_offset: int = 0
    final_sigmas_type: str = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: str = "exponential"
    sigma_min: float | None = None
    sigma_max: float | None = None
    shift_terminal: float | None = None

    def __post_init__(self):
        require(
            self,
            use_flow_sigmas=(True,),
            prediction_type=("flow_prediction",),
            predict_x0=(True,),
            solver_order=(1, 2, 3),
            # bh1 and a last step of higher order divide by zero at the final sigma 0, in diffusers too.
            solver_type=("bh2",),
            lower_order_final=(True,),
            final_sigmas_type=("zero",),
            thresholding=(False,),
            solver_p=(None,),
            use_karras_sigmas=(False,),
            use_exponential_sigmas=(False,),
            use_beta_sigmas=(False,),
            use_dynamic_shifting=(False,),
            shift_terminal=(None,),
        )
        check_shift("flow_shift", self.flow_shift)


class Combination(NamedTuple):
    """Weights of x_next = on_x x + on_x0 m_0 + sum_k on_differences[k] (m_k - m_0), m being predictions of x_0."""

    on_x: np.ndarray  # float32 [n]
    on_x0: np.ndarray  # float32 [n]
    on_differences: np.ndarray  # float32 [n, K]


class UniPCTables(NamedTuple):
    """Noise levels of a run and the solver's weights for each of its steps."""

    timesteps: np.ndarray  # int32 [n]
    sigmas: np.ndarray  # float32 [n + 1], falling; 0 at the end
    corrects: np.ndarray  # bool [n], whether step i first corrects the sample it was given
    corrector: Combination  # K = order: older predictions newest first, then the one of this step
    predictor: Combination  # K = order - 1: older predictions, newest first


class UniPCState(NamedTuple):
    """What the solver remembers; zeros where it has not been yet."""

    predictions: jax.Array  # float32 [order, *x.shape], of x_0, newest first
    sample: jax.Array  # float32 [*x.shape], corrected, before the last step


@dataclasses.dataclass(frozen=True)
class UniPCMultistepScheduler(Scheduler):
    """UniPC with B(h) = e^h - 1 and data prediction x_0 = x - sigma v, for a model that predicts the velocity v.

    Reference: UniPC (arXiv 2302.04867), as in diffusers' UniPCMultistepScheduler (0.42) with flow sigmas;
    timesteps and sigmas to the bit. The first sigma is 0.999999, since log(1 - sigma) is needed, and timesteps are
    cut off to integers (999, 937, ...). Weights are computed in float32 because diffusers does: differences of
    small numbers are taken there, and weights of order 3 in a run of 50 steps are 8e-6 away from those in float64.
    """

    config: UniPCMultistepConfig

    CLASS_NAME: ClassVar[str] = "UniPCMultistepScheduler"
    config_class: ClassVar[type] = UniPCMultistepConfig

    def set_timesteps(self, num_steps: int, sigmas=None, *, start: int = 0) -> UniPCTables:
        """See `Scheduler.set_timesteps`."""
        train = self.config.num_train_timesteps
        num_steps, start = check_steps(num_steps, start, train)
        if sigmas is None:
            sigmas = np.linspace(1, 1 / train, num_steps + 1)[:-1]
        else:
            sigmas = check_sigmas(sigmas, num_steps)
        sigmas = shift_time(sigmas, self.config.flow_shift)
        if abs(sigmas[0] - 1) < 1e-6:
            sigmas[0] -= 1e-6
        levels = np.append(sigmas, 0).astype(np.float32)
        check_levels(levels, self.config.flow_shift)
        timesteps = (sigmas * train).astype(np.int32)
        sigmas = levels

        steps = np.arange(num_steps)
        # No more predictions than there are since `start`, and no more than steps that are left.
        orders = np.minimum(
            self.config.solver_order, np.minimum(num_steps - steps, steps - start + 1)
        )
        orders = np.maximum(orders, 1)
        corrects = (steps > start) & ~np.isin(steps - 1, self.config.disable_corrector)
        moves = [
            transition(sigmas, i, int(order), self.config.solver_order)
            for i, order in enumerate(orders)
        ]
        predictor, corrector = jax.tree.map(lambda *rows: np.stack(rows), *moves)
        # A step corrects the move that led to it; nothing corrects the last.
        corrector = jax.tree.map(lambda rows: np.roll(rows, 1, axis=0), corrector)
        return UniPCTables(timesteps, sigmas, corrects, corrector, predictor)

    def init(self, x: jax.Array) -> UniPCState:
        """See `Scheduler.init`."""
        history = (self.config.solver_order, *x.shape)
        return UniPCState(jnp.zeros(history, jnp.float32), jnp.zeros(x.shape, jnp.float32))

    def step(self, model_output, i, x, state: UniPCState, tables: UniPCTables, noise=None):
        """See `Scheduler.step`; `noise` is not looked at."""
        del noise
        velocity, sample = check_step(model_output, i, x, tables)
        now = row(tables._replace(sigmas=tables.sigmas[:-1]), i)
        x0 = sample - now.sigmas * velocity
        older = state.predictions
        corrected = combine(
            now.corrector, state.sample, older[0], jnp.concatenate([older[1:], x0[None]])
        )
        sample = jnp.where(now.corrects, corrected, sample)
        predicted = combine(now.predictor, sample, x0, older[: self.config.solver_order - 1])
        history = jnp.concatenate([x0[None], older[:-1]])
        return predicted.astype(x.dtype), UniPCState(history, sample)

    def scale_noise(self, x0, noise, i, tables: UniPCTables):
        """See `Scheduler.scale_noise`: (1 - sigma) x_0 + sigma noise."""
        sigma = jnp.asarray(tables.sigmas)[i]
        return add_noise(x0.astype(jnp.float32), noise.astype(jnp.float32), sigma).astype(x0.dtype)


def combine(weights: Any, x: jax.Array, x0: jax.Array, others: jax.Array) -> jax.Array:
    """x_next of one row of a `Combination`; others [K, *x.shape]."""
    exact = jax.lax.Precision.HIGHEST  # float32 on accelerators too
    rest = jnp.tensordot(weights.on_differences, others - x0[None], axes=1, precision=exact)
    return weights.on_x * x + weights.on_x0 * x0 + rest


def transition(
    sigmas: np.ndarray, i: int, order: int, width: int
) -> tuple[Combination, Combination]:
    """Weights of UniPC-`order` from sigmas[i] to sigmas[i + 1]: (predictor, corrector), float32.

    m_0 is the prediction at i and m_k the one at i - k; the corrector's last difference is that of the prediction
    at i + 1. Their numbers of differences are those of order `width`, with zeros for what `order` does not use.
    """
    before, after = np.zeros(width - 1, np.float32), np.zeros(width, np.float32)
    if sigmas[i + 1] == 0:  # the last step goes all the way to the prediction
        assert order == 1
        ends = np.zeros((), np.float32), np.ones((), np.float32)
        return Combination(*ends, before), Combination(*ends, after)
    target, start, *past = (
        _half_log_snr(sigmas[k]) for k in (i + 1, i, *range(i - 1, i - order, -1))
    )
    h = target - start
    growth = np.float32(np.expm1(np.float64(-h)))  # both -h phi_1(-h) and B(h)
    right, phi, factorial = np.zeros(order, np.float32), growth / -h - np.float32(1), 1
    for k in range(order):
        right[k] = phi * np.float32(factorial) / growth
        factorial *= k + 2
        phi = phi / -h - np.float32(1 / factorial)
    positions = np.array([*((level - start) / h for level in past), 1], np.float32)
    matrix = np.stack([positions**k for k in range(order)])
    scale = -((np.float32(1) - sigmas[i + 1]) * growth)
    ends = np.array(sigmas[i + 1] / sigmas[i]), np.array(scale)

    # UniP-2 and UniC-1 take 1/2 instead of the solution of their single equation, as the paper allows.
    half = np.full(1, 0.5, np.float32)
    rho = half if order == 2 else np.linalg.solve(matrix[:-1, :-1], right[:-1])
    before[: order - 1] = scale * (rho / positions[:-1])
    rho = half if order == 1 else np.linalg.solve(matrix, right)
    after[[*range(order - 1), -1]] = scale * (rho / positions)
    return Combination(*ends, before), Combination(*ends, after)


def _half_log_snr(sigma: np.float32) -> np.float32:
    """log(1 - sigma) - log(sigma), each rounded to float32."""
    alpha = np.float32(1) - sigma
    return np.float32(np.log(np.float64(alpha))) - np.float32(np.log(np.float64(sigma)))
