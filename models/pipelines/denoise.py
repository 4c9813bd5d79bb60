"""The denoising loop: one compiled program per phase, whose memory is known before any weight is read."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sparsevdit_jax import KernelOptions, Phase, SparseAttention, StepContext, VideoGrid
from sparsevdit_jax.parallel import head_spec, put

from .conditions import Conditions
from .family import Family

_DONATED = (
    1,
    2,
    3,
)  # latents, solver's state, layers' states: a step puts the new ones in their place


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a compiled step holds at its peak on its device, as XLA has planned them."""

    arguments: int
    temporaries: int
    results: int

    @property
    def peak(self) -> int:
        """All of them: weights and latents, activations, and what is returned without taking an argument's place."""
        return self.arguments + self.temporaries + self.results


@dataclasses.dataclass
class Progress:
    """Where a run stands: everything that the next step needs."""

    step: int
    x: jax.Array
    solver: Any
    states: Any


class Denoiser:
    """Compiles and runs the steps of one setting.

    `compile` and `run` under one `jax.set_mesh` denoise on all of its devices, of one host or several: weights
    lie where they were put (on every device, where nobody said), layers' states with their heads, and
    all else on every device, so that what a step returns is where the next one takes it.

    Args:
      family: conventions of the model.
      shape: of the latents.
      num_steps: of the run.
      attention: None is dense; its schedule must be for `num_steps`.
      text_len: room for text in the joint sequence (0 for Wan).
      key: of the noise that some schedulers add in every step, where `run` is given none.
      implementation: of the attention kernels; None lets them choose.
    """

    def __init__(
        self,
        family: Family,
        shape: tuple[int, ...],
        *,
        num_steps: int,
        grid: VideoGrid,
        num_heads: int,
        head_dim: int,
        attention: SparseAttention | None = None,
        key: jax.Array | None = None,
        implementation: str | None = None,
    ):
        if attention is not None and attention.schedule.num_steps != num_steps:
            raise ValueError(
                f"{num_steps=} but the attention's schedule is for {attention.schedule.num_steps}; make "
                "both the same"
            )
        self.family, self.shape, self.num_steps, self.grid = family, shape, num_steps, grid
        self.attention, self.implementation = attention, implementation
        self.key = jax.random.key(0) if key is None else key
        self.tables = family.set_timesteps(num_steps)
        self._heads = dict(num_heads=num_heads, head_dim=head_dim)
        self._compiled: dict[Phase | None, Any] = {}

    def phases(self) -> list[Phase | None]:
        """Phase of every step; None where all is dense."""
        if self.attention is None:
            return [None] * self.num_steps
        return list(self.attention.schedule.phases())

    def start(self, noise: jax.Array, rows: int) -> Progress:
        """The state before the first step; `rows` of the transformer's batch."""
        x = jnp.array(noise, jnp.float32)  # a copy: steps donate their input
        states = ()
        if self.attention is not None:
            states = self.attention.init(self.grid, batch=rows, **self._heads)
            states = jax.tree.map(jnp.asarray, states)
        return Progress(0, x, self.family.scheduler.init(x), states)

    def compile(self, model: Any, conditions: Conditions) -> dict[Phase | None, Memory]:
        """Compiles the program of every phase that occurs.

        Args:
          model: the transformer, or one without weights (`nnx.eval_shape`).
          conditions: those of the run, or their shapes.

        Returns:
          The memory of each.
        """
        for phase in dict.fromkeys(self.phases()):
            if phase not in self._compiled:
                step, arguments = self.program(model, conditions, phase)
                shapes, out = _spread(arguments)
                jitted = jax.jit(step, donate_argnums=_DONATED, out_shardings=out)
                self._compiled[phase] = jitted.lower(*shapes).compile()
        return {phase: _memory(program) for phase, program in self._compiled.items()}

    def program(
        self, model: Any, conditions: Conditions, phase: Phase | None
    ) -> tuple[Callable, tuple]:
        """One step as a function, and the shapes of its arguments; see `compile`."""
        rows = next(iter(conditions.inputs.values())).shape[0]
        begin = jax.eval_shape(lambda: _flat(self.start(jnp.zeros(self.shape), rows)))
        rest = np.int32(0), conditions, self._context(phase, 0), self.tables, self.key
        return self._step, (model, *begin, *rest)

    def run(
        self,
        model: Any,
        conditions: Conditions,
        progress: Progress,
        on_step: Callable[[Phase | None, Progress], None] | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Denoises from `progress` to the end; returns the latents, float32.

        Args:
          on_step: called after each step with its phase and the new state, whose arrays the next step consumes.
          key: as the class's, for this run alone: runs of several seeds share the compiled steps.
        """
        self.compile(model, conditions)
        phases = self.phases()
        key = self.key if key is None else key
        arguments = (model, *_flat(progress), None, conditions, None, self.tables, key)
        model, *now, _, conditions, _, tables, key = _put(arguments)
        progress = Progress(progress.step, *now)
        for step in range(progress.step, self.num_steps):
            x, solver, states = self._compiled[phases[step]](
                model,
                *_flat(progress),
                np.int32(step),
                conditions,
                self._context(phases[step], step),
                tables,
                key,
            )
            progress = Progress(step + 1, x, solver, states)
            if on_step is not None:
                on_step(phases[step], progress)
        return progress.x

    def _context(self, phase, step):
        if phase is None and self.implementation is None:
            return None
        return StepContext(
            self.grid,
            phase or Phase.DENSE,
            step=np.int32(step),  # NumPy's: a host's own number is every host's
            kernel=KernelOptions(self.implementation),
        )

    def _step(self, model, x, solver, states, i, conditions, ctx, tables, key):
        timestep = jnp.asarray(tables.timesteps)[i]
        out, states = self.family.predict(
            model, x, timestep, conditions, self.attention, states, ctx
        )
        noise = key if self.family.scheduler.draws_noise else None
        x, solver = self.family.scheduler.step(out, i, x, solver, tables, noise)
        return x, solver, states


def _flat(progress: Progress) -> tuple[Any, Any, Any]:
    return progress.x, progress.solver, progress.states


def _shardings(arguments: tuple) -> tuple | None:
    """Where a step's arguments lie on the present mesh; None without a mesh."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return None
    everywhere = NamedSharding(mesh, PartitionSpec())

    def own(a):
        here = getattr(a, "sharding", None)
        return here if isinstance(here, NamedSharding) and here.mesh == mesh else everywhere

    def with_heads(a):
        return NamedSharding(mesh, head_spec(a.shape))

    model, x, solver, states, *rest = arguments
    x, solver, rest = jax.tree.map(lambda _: everywhere, (x, solver, rest))
    return (jax.tree.map(own, model), x, solver, jax.tree.map(with_heads, states), *rest)


def _spread(arguments: tuple) -> tuple[tuple, Any]:
    """Shapes of a step's arguments with their place on the mesh, and the place of what it returns."""
    places = _shardings(arguments)
    if places is None:
        return arguments, None

    def shape(a, place):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place)

    return jax.tree.map(shape, arguments, places), places[1:4]


def _put(arguments: tuple) -> tuple:
    places = _shardings(arguments)
    return arguments if places is None else jax.tree.map(put, arguments, places)


def _memory(program) -> Memory:
    plan = program.memory_analysis()
    return Memory(
        plan.argument_size_in_bytes,
        plan.temp_size_in_bytes,
        plan.output_size_in_bytes - plan.alias_size_in_bytes,
    )
