"""The interface of a scheduler. Read this first.

A scheduler turns what a diffusion transformer predicts into the next, less noisy latent. It is a frozen,
hashable value: everything that depends on the number of steps is in `tables`, computed once on the host with
NumPy in the precision diffusers uses, and everything that changes between steps is in `state`.

    tables = scheduler.set_timesteps(50)
    state = scheduler.init(x)
    for i in range(50):  # or jax.lax.scan over jnp.arange(50), with (x, state) as its carry
        x, state = scheduler.step(model(x, tables.timesteps[i]), i, x, state, tables)

Rules of a solver such as "lower the order in the last steps" are entries of its tables, so `i` may be traced and one
compiled step serves all steps.
"""

import abc
import dataclasses
import operator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Scheduler(abc.ABC):
    """One solver; subclasses are frozen dataclasses with the single field `config`.

    Attributes:
      CLASS_NAME: diffusers' `_class_name`, where it has one.
      config_class: the dataclass of `config`, fields as in scheduler_config.json.
      draws_noise: whether `step` needs its argument `noise`.
    """

    config: Any

    CLASS_NAME: ClassVar[str]
    config_class: ClassVar[type]
    draws_noise: ClassVar[bool] = False

    @abc.abstractmethod
    def set_timesteps(self, num_steps: int, sigmas=None, *, start: int = 0) -> Any:
        """Tables of a run: a pytree of NumPy arrays, one row a step.

        Args:
          num_steps: steps from pure noise to video.
          sigmas: noise levels of the steps instead of the scheduler's own, [num_steps], falling within (0, 1],
            before the flow shift; flow schedulers only. The final 0 is added here.
          start: first step that will be run; later than 0 where a run begins with a noised video
            (`scale_noise`), so that a multistep solver does not look back beyond it.

        Returns:
          A NamedTuple with `timesteps` [num_steps], what the model is told, among its fields.
        """

    @abc.abstractmethod
    def init(self, x: jax.Array) -> Any:
        """State before the first step of a run on latents like x; float32, shapes never change."""

    @abc.abstractmethod
    def step(self, model_output, i, x, state, tables, noise=None) -> tuple[jax.Array, Any]:
        """(latents after step i, new state).

        Args:
          model_output: what the model predicted at x, after guidance; shape of x, any float dtype.
          i: the step, 0-based; may be traced.
          x: latents [B, ...] before the step.
          noise: only where `draws_noise`.

        Computed in float32 and returned in x's dtype, which a scan needs to be one and the same. (diffusers'
        FlowMatchEuler returns the dtype of `model_output`: with a bfloat16 model, a float32 latent becomes
        bfloat16 after the first step. Cast x after each step where that is to be reproduced.)
        """

    @abc.abstractmethod
    def scale_noise(self, x0: jax.Array, noise: jax.Array, i, tables) -> jax.Array:
        """Clean videos x0 [B, ...] with the noise they have before step i; i: int scalar or [B].

        diffusers calls it scale_noise in FlowMatchEuler and add_noise elsewhere.
        """


def check_steps(num_steps: int, start: int, train: int) -> tuple[int, int]:
    """Both as ints, if there is something to run, in no more steps than the `train` levels of training."""
    num_steps, start = operator.index(num_steps), operator.index(start)
    if not 1 <= num_steps <= train:
        raise ValueError(
            f"{num_steps=} must lie in 1..{train}, the noise levels of training; 20 to 50 are usual"
        )
    if not 0 <= start < num_steps:
        raise ValueError(f"{start=} must lie in 0..{num_steps - 1}, the steps of this run")
    return num_steps, start


def check_sigmas(sigmas, num_steps: int) -> np.ndarray:
    """A copy of `sigmas`, in its float dtype, if it is a noise schedule for that many steps."""
    sigmas = np.array(sigmas)
    if not np.issubdtype(sigmas.dtype, np.floating):
        sigmas = sigmas.astype(np.float64)
    if sigmas.shape != (num_steps,):
        raise ValueError(
            f"sigmas of shape {sigmas.shape} must be one per step, ({num_steps},); "
            "leave out the final 0, which is added"
        )
    if not (sigmas[-1] > 0 and sigmas[0] <= 1 and (np.diff(sigmas) < 0).all()):
        raise ValueError(
            f"sigmas={sigmas} must fall from at most 1 to above 0, noise first; "
            "sort them in descending order and leave out the final 0, which is added"
        )
    return sigmas


def check_shift(name: str, shift: float) -> None:
    """ValueError for a flow shift that pushes all noise levels to one end."""
    if not _LEAST_SHIFT <= shift <= 1 / _LEAST_SHIFT:
        raise ValueError(
            f"{name}={shift} must lie in {_LEAST_SHIFT:g}..{1 / _LEAST_SHIFT:g}; 1 means no shift, 3 to 17 are usual"
        )


_LEAST_SHIFT = 0.01


def check_levels(sigmas: np.ndarray, shift: float) -> None:
    """ValueError unless shifted noise levels, float32 with the last 0, fall from 1 or less and no two are the same."""
    if not (sigmas[0] < 1.001 and (np.diff(sigmas) < 0).all()):
        raise ValueError(
            f"the {len(sigmas) - 1} noise levels do not fall from 1 to 0 in float32 after the shift by {shift}; take a "
            "shift nearer to 1 (3 to 17 are usual), fewer steps or sigmas further apart"
        )


def check_step(model_output, i, x, tables) -> tuple[jax.Array, jax.Array]:
    """`model_output` and `x` in float32, if they fit each other and the step exists."""
    if model_output.shape != x.shape:
        raise ValueError(
            f"{model_output.shape=} must be the shape of x, {x.shape}; "
            "combine the branches of guidance before the step"
        )
    steps = len(tables.timesteps)
    if not isinstance(i, jax.Array) and not 0 <= operator.index(i) < steps:
        raise ValueError(
            f"step i={i} must lie in 0..{steps - 1}, the steps of these tables; pass the step's index, "
            "not its timestep"
        )
    return model_output.astype(jnp.float32), x.astype(jnp.float32)


def row(tables: Any, i) -> Any:
    """The entries of step i of every table; each has one row a step."""
    return jax.tree.map(lambda table: jnp.asarray(table)[i], tables)
