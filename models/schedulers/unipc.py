"""UniPC, a multistep predictor-corrector, along the path of flow matching: Wan's scheduler."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.config import require
from models.flow_matching import add_noise, shift_time
from models.schedulers.scheduler import Scheduler, check_sigmas, check_step, check_steps, row


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPCMultistepConfig:
    """Fields and defaults of diffusers' UniPCMultistepScheduler.

    Its defaults are those of image models and are refused: a flow model's file says ``use_flow_sigmas`` and
    ``prediction_type="flow_prediction"``. `beta_*`, `trained_betas`, `rescale_betas_zero_snr`, `timestep_spacing`,
    `steps_offset`, `sigma_min`, `sigma_max`, `time_shift_type`, `dynamic_thresholding_ratio` and
    `sample_max_value` have no effect with flow sigmas.
    """

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
        if not self.flow_shift > 0:
            raise ValueError(f"flow_shift={self.flow_shift} must be above 0; 1 means no shift")


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
    cut off to integers (999, 937, ...). Weights are computed in float32 because diffusers does; its small step
    sizes cancel there, so float64 would be another solver in the last digits.
    """

    config: UniPCMultistepConfig

    CLASS_NAME: ClassVar[str] = "UniPCMultistepScheduler"
    config_class: ClassVar[type] = UniPCMultistepConfig

    def set_timesteps(self, num_steps: int, sigmas=None, *, start: int = 0) -> UniPCTables:
        """See `Scheduler.set_timesteps`."""
        num_steps, start = check_steps(num_steps, start)
        train = self.config.num_train_timesteps
        if sigmas is None:
            sigmas = np.linspace(1, 1 / train, num_steps + 1)[:-1]
        else:
            sigmas = check_sigmas(sigmas, num_steps)
        sigmas = shift_time(sigmas, self.config.flow_shift)
        if abs(sigmas[0] - 1) < 1e-6:
            sigmas[0] -= 1e-6
        timesteps = (sigmas * train).astype(np.int32)
        sigmas = np.append(sigmas, 0).astype(np.float32)

        steps = np.arange(num_steps)
        # No more predictions than there are since `start`, and no more than steps that are left.
        orders = np.minimum(
            self.config.solver_order, np.minimum(num_steps - steps, steps - start + 1)
        )
        orders = np.maximum(orders, 1)
        corrects = (steps > start) & ~np.isin(steps - 1, self.config.disable_corrector)
        return UniPCTables(timesteps, sigmas, corrects, *self._weights(sigmas, orders))

    def _weights(self, sigmas: np.ndarray, orders: np.ndarray) -> tuple[Combination, Combination]:
        """(corrector, predictor), a row per step."""
        n, width = len(orders), self.config.solver_order
        corrector = Combination(*(np.zeros((n, *k), np.float32) for k in ((), (), (width,))))
        predictor = Combination(*(np.zeros((n, *k), np.float32) for k in ((), (), (width - 1,))))
        for i, order in enumerate(orders):
            on_x, on_x0, before, after = transition(sigmas, i, int(order))
            predictor.on_x[i], predictor.on_x0[i] = on_x, on_x0
            predictor.on_differences[i, : order - 1] = before
            if (
                i + 1 < n
            ):  # the step after next corrects this transition with the prediction at its end
                corrector.on_x[i + 1], corrector.on_x0[i + 1] = on_x, on_x0
                corrector.on_differences[i + 1, : order - 1] = after[:-1]
                corrector.on_differences[i + 1, -1] = after[-1]
        return corrector, predictor

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


def transition(sigmas: np.ndarray, i: int, order: int) -> tuple:
    """Weights of UniPC-`order` from sigmas[i] to sigmas[i + 1], in float32.

    Returns:
      on_x, on_x0: weights of the sample and of the prediction m_0 at i.
      before: [order - 1], of (m_k - m_0) in the predictor; m_k is the prediction at step i - k.
      after: [order], the same in the corrector, with the prediction at i + 1 as its last.
    """
    alpha, ratio = np.float32(1) - sigmas[i + 1], sigmas[i + 1] / sigmas[i]
    if sigmas[i + 1] == 0:  # the last step goes all the way to the prediction
        assert order == 1
        return np.float32(0), np.float32(1), np.zeros(0), np.zeros(1)
    snr = [_half_log_snr(sigmas[k]) for k in (i + 1, *range(i, i - order, -1))]
    h = snr[0] - snr[1]  # step size; snr[1] is where the step begins
    back = [(past - snr[1]) / h for past in snr[2:]]  # positions of older predictions, in steps
    growth = np.float32(np.expm1(np.float64(-h)))  # both h phi_1(h) and B(h)
    rhs, phi, factorial = [], growth / -h - np.float32(1), 1
    for k in range(order):
        rhs.append(phi * np.float32(factorial) / growth)
        factorial *= k + 2
        phi = phi / -h - np.float32(1 / factorial)
    positions = np.array([*back, 1], np.float32)
    matrix = np.stack([positions**k for k in range(order)])
    rhs = np.array(rhs, np.float32)
    # Orders 2 and 1 have a simpler weight of the same accuracy in the paper.
    half = np.full(1, 0.5, np.float32)
    before = half if order == 2 else np.linalg.solve(matrix[:-1, :-1], rhs[:-1])
    after = half if order == 1 else np.linalg.solve(matrix, rhs)
    scale = -(alpha * growth)
    return ratio, scale, scale * (before[: order - 1] / positions[:-1]), scale * (after / positions)


def _half_log_snr(sigma: np.float32) -> np.float32:
    """log(1 - sigma) - log(sigma), each rounded to float32."""
    alpha = np.float32(1) - sigma
    return np.float32(np.log(np.float64(alpha))) - np.float32(np.log(np.float64(sigma)))
