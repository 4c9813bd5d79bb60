"""The denoise loop: one compiled program for each phase, and its memory before any weight is read."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sparsevdit_jax import KernelOptions, Phase, SparseAttention, StepContext
from sparsevdit_jax.parallel import head_spec, put

from .conditions import Conditions
from .family import Family

_DONATED = (1, 2, 3)
"""Latents, solver's state and layers' states: a step puts the new ones in their place."""


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
    """The state of a run between two steps: everything that the next step needs."""

    step: int
    x: jax.Array
    solver: Any
    states: Any


class Denoiser:
    """Compiles and runs the steps of one setting: the one denoise loop.

    `compile`, `step` and `run` under one `jax.set_mesh` denoise on all of its devices, of one host or several.
    Weights keep their sharding (replicated by default), layers' states are sharded by heads, and everything else
    is replicated. So a step returns its results where the next step takes them.

    Args:
      family: conventions of the model.
      shape: of what is denoised: latents, or the Tiny model's videos.
      num_steps: of the run.
      text_len: room for text in the joint sequence; None: the family's own.
      attention: None is dense; its schedule must be for `num_steps`.
      key: for the noise that some schedulers add in every step; `step` and `run` may be given another.
      implementation: of the attention kernels; None lets them choose.
    """

    def __init__(
        self,
        family: Family,
        shape: tuple[int, ...],
        *,
        num_steps: int,
        text_len: int | None = None,
        attention: SparseAttention | None = None,
        key: jax.Array | None = None,
        implementation: str | None = None,
    ):
        if attention is not None and attention.schedule.num_steps != num_steps:
            raise ValueError(
                f"{num_steps=} but the attention's schedule is for {attention.schedule.num_steps}; make "
                "both the same"
            )
        self.family, self.shape, self.num_steps = family, shape, num_steps
        self.grid = family.grid(shape, text_len)
        self.attention, self.implementation = attention, implementation
        self.key = jax.random.key(0) if key is None else key
        self.tables = family.set_timesteps(num_steps)
        self._compiled: dict[Any, dict[Phase, Any]] = {}

    def phases(self) -> tuple[Phase, ...]:
        """Phase of every step."""
        if self.attention is None:
            return (Phase.DENSE,) * self.num_steps
        return self.attention.schedule.phases()

    def start(self, x: jax.Array, conditions: Conditions, step: int = 0) -> Progress:
        """The state before the first step, from noise; or before step `step`, from the latents of a run at that step.

        Args:
          x: of the denoiser's shape.
          conditions: those of the run, or their shapes.
          step: later than 0 only with a scheduler without memory, and for patterns whose state the earlier steps do not
            change (dense steps do not). Runs that share a dense warm-up fork from it so.

        Raises:
          ValueError: shape, rows or step do not fit.
        """
        videos = 1 if conditions.guidance is None else 2
        if x.shape != self.shape or conditions.rows != videos * len(x):
            raise ValueError(
                f"x of shape {x.shape} with conditions of {conditions.rows} rows: this run is of shape {self.shape} "
                f"and needs {videos * self.shape[0]} rows; give each video a condition"
            )
        if not 0 <= step <= self.num_steps:
            raise ValueError(f"{step=} must lie in 0..{self.num_steps}, the steps of this run")
        x = jnp.array(x, jnp.float32)  # a copy: steps donate their input
        solver = self.family.scheduler.init(x)
        if step and jax.tree.leaves(solver):
            raise ValueError(
                f"{step=} but {type(self.family.scheduler).__name__} looks back at earlier steps; start at 0, or go on "
                "from the Progress of a run"
            )
        states = ()
        if self.attention is not None:
            sizes = self.family.transformer
            heads = dict(num_heads=sizes.num_heads, head_dim=sizes.head_dim)
            states = self.attention.init(self.grid, batch=conditions.rows, **heads)
            states = jax.tree.map(jnp.asarray, states)
        return Progress(step, x, solver, states)

    def compile(self, model: Any, conditions: Conditions, *, start: int = 0) -> dict[Phase, Memory]:
        """Compiles the program of every phase that occurs from step `start` on.

        Args:
          model: the transformer, or one without weights (`nnx.eval_shape`).
          conditions: those of the run, or their shapes.
          start: as in `start`.

        Returns:
          The memory of each.
        """
        programs = self._programs(model, conditions, self.phases()[start:])
        return {phase: _memory(program) for phase, program in programs.items()}

    def program(self, model: Any, conditions: Conditions, phase: Phase) -> tuple[Callable, tuple]:
        """One step as a function, and the shapes of its arguments; see `compile`."""
        noise = jax.ShapeDtypeStruct(self.shape, jnp.float32)
        begin = jax.eval_shape(lambda x: _flat(self.start(x, conditions)), noise)
        rest = np.int32(0), conditions, self._context(0, phase), self.tables, self.key
        return self._step, (model, *begin, *rest)

    def step(
        self,
        model: Any,
        conditions: Conditions,
        progress: Progress,
        *,
        phase: Phase | None = None,
        key: jax.Array | None = None,
    ) -> Progress:
        """One step; see `run`.

        Args:
          progress: whose arrays it consumes.
          phase: in place of the schedule's, to look at such a step or to time it.
        """
        phase = self.phases()[progress.step] if phase is None else phase
        program = self._programs(model, conditions, (phase,))[phase]
        return self._advance(program, *self._placed(model, conditions, progress, key), phase)

    def run(
        self,
        model: Any,
        conditions: Conditions,
        progress: Progress,
        on_step: Callable[[Phase, Progress], None] | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Denoises from `progress` to the end; returns the latents or videos, float32.

        Args:
          on_step: called after each step with its phase and the new state, whose arrays the next step consumes.
          key: as the class's, for this run alone: runs of several seeds share the compiled steps.
        """
        phases = self.phases()
        programs = self._programs(model, conditions, phases[progress.step :])
        fixed, progress = self._placed(model, conditions, progress, key)
        for phase in phases[progress.step :]:
            progress = self._advance(programs[phase], fixed, progress, phase)
            if on_step is not None:
                on_step(phase, progress)
        return progress.x

    def _programs(self, model, conditions, phases) -> dict[Phase, Any]:
        """Compiled for this model and these conditions, or for others like them."""
        leaves, tree = jax.tree.flatten((model, conditions))
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        compiled = self._compiled.setdefault((tree, shapes, jax.sharding.get_mesh()), {})
        for phase in dict.fromkeys(phases):
            if phase not in compiled:
                step, arguments = self.program(model, conditions, phase)
                arguments, out = _spread(arguments)
                jitted = jax.jit(step, donate_argnums=_DONATED, out_shardings=out)
                compiled[phase] = jitted.lower(*arguments).compile()
        return compiled

    def _placed(self, model, conditions, progress, key) -> tuple[tuple, Progress]:
        """What stays the same in all steps, and where they stand: on the devices of the present mesh."""
        key = self.key if key is None else key
        arguments = (model, *_flat(progress), None, conditions, None, self.tables, key)
        model, *now, _, conditions, _, tables, key = _put(arguments)
        return (model, conditions, tables, key), Progress(progress.step, *now)

    def _advance(self, program, fixed, progress: Progress, phase: Phase) -> Progress:
        (model, conditions, tables, key), step = fixed, progress.step
        ctx = self._context(step, phase)
        now = program(model, *_flat(progress), np.int32(step), conditions, ctx, tables, key)
        return Progress(step + 1, *now)

    def _context(self, step: int, phase: Phase) -> StepContext:
        kernel = KernelOptions(self.implementation)
        if self.attention is None:
            return StepContext(self.grid, phase, np.int32(step), kernel=kernel)
        ctx = self.attention.context(step, self.grid, kernel=kernel)
        return dataclasses.replace(ctx, phase=phase)

    def _step(self, model, x, solver, states, i, conditions, ctx, tables, key):
        """The only place that calls the transformer. What would skip or reuse a step's blocks (a step cache) belongs
        between here and `models.stack.run_blocks`, its state in `Progress`, beside the layers' states.
        """
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
