"""Parts `tune` and `denoise`: candidates for the measured table, and whole steps of a published model."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check import small
from experiments.gpu_check.checks import draws
from experiments.gpu_check.session import Session
from experiments.gpu_check.shapes import CASES, Case
from experiments.timing import timer
from pallas_kernels import _measured, block_mass, block_sparse_attention
from pallas_kernels.block_mass import mosaic_gpu as mass_kernel
from pallas_kernels.block_sparse_attention import mosaic_gpu as forward_kernel
from pallas_kernels.block_sparse_attention import mosaic_gpu_vjp as backward_kernel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """Another configuration of one kernel, raced with the one that is in use.

    Attributes:
      kernel: as in a measured table.
      fields: of its configuration.
      case: the problem that both are timed on.
      check: a small problem that the candidate must get right first.
    """

    kernel: str
    fields: Mapping[str, Any]
    case: Case
    check: str

    @property
    def geometry(self) -> tuple[int, int, int]:
        """D, block_q, block_kv."""
        if self.kernel == "block_mass":
            return self.case.head_dim, _MASS_BLOCK, _MASS_BLOCK
        block = math.prod(self.case.tile) if self.case.grid else self.case.block
        return self.case.head_dim, block, block

    def table(self, dtype: str) -> dict[str, dict[str, Any]]:
        """A measured table with nothing else in it."""
        return {",".join(map(str, (self.kernel, *self.geometry, dtype))): dict(self.fields)}

    def configure(self, dtype: str) -> Any:
        """The kernel's configuration as it is now, by the heuristics and whatever table is in use."""
        if self.kernel == "block_mass":
            return mass_kernel.configure(*self.geometry, dtype)
        if self.kernel == "block_sparse_attention":
            return forward_kernel.configure(*self.geometry, dtype)
        return backward_kernel.configure(*self.geometry, dtype)


METHODS = ("sta", "dense")
_MASS_BLOCK = 128
_S1, _V4 = CASES["S1"], CASES["V4"]
_S1_64 = dataclasses.replace(_S1, name="S1_D64", head_dim=64, heads=48)
CANDIDATES = {
    name: Candidate(kernel=kernel, fields=fields, case=case, check=check)
    for name, kernel, fields, case, check in (
        ("D64_rows128", "block_sparse_attention", {"stages": 4, "consumers": 2}, _S1_64, "384x384"),
        ("S1_rows192", "block_sparse_attention", {"tile_kv": 64, "stages": 3, "consumers": 3}, _S1, "384x384"),
        ("D64_rows192_64", "block_sparse_attention", {"tile_kv": 64, "stages": 6, "consumers": 3}, _S1_64, "384x384"),
        ("V4_own_out", "block_sparse_attention", {"stages": 2, "own_out": True}, _V4, "64x64"),
        ("dq_short", "block_sparse_attention_dq", {"tile": 64, "stages": 4}, _S1, "384x384"),
        ("mass_stages", "block_mass", {"stages": 2}, _S1, "mass_square"),
    )
}  # fmt: skip
"""Most promising first. What a winner changes goes into pallas_kernels/measured_h200.json."""


def tune(session: Session) -> None:
    """Each candidate beside what is in use: right on a small problem, then timed in turns."""
    dtype = session.config.timed_dtype
    for name, candidate in session.in_time((name, (name, c)) for name, c in CANDIDATES.items()):
        with measured(candidate.table(dtype)):
            print(f"  {name}: {candidate.configure(dtype)}")
            problem = small.PROBLEMS[candidate.check]
            check = functools.partial(
                problem.check, _tuned(session), dtype, candidate.case.head_dim, *draws(session, candidate.check)
            )  # fmt: skip
            session.attempt(f"{name}: {candidate.check}", check)
        if session.failures:
            return
        case = candidate.case.small() if session.config.dry_run else candidate.case
        _race(session, name, candidate, case)


def _tuned(session: Session) -> str:
    """What has measured tables; in a dry run whatever runs there."""
    return "mosaic_gpu" if session.on_gpu else session.chosen or "xla"


def _race(session: Session, name: str, candidate: Candidate, case: Case) -> None:
    dtype, timers = session.config.timed_dtype, {}
    program, inputs = _program(candidate, case, _tuned(session), dtype)
    mask = case.mask()
    if case.grid:  # lists that a video's shape gives are constants
        program = functools.partial(program, mask=mask)
    else:
        inputs.append(jax.device_put(mask))
    for label, table in (("in use", None), (name, candidate.table(dtype))):
        with measured(table):
            # Compiled at once, since the table is read while the program is traced.
            timers[label] = timer(jax.jit(program).lower(*inputs).compile(), *inputs)
    density = 1.0 if candidate.kernel == "block_mass" else float(mask.density())
    kernels = {"block_mass": 0.5, "block_sparse_attention": 1.0}.get(candidate.kernel, 3.5)
    flops = dict.fromkeys(timers, round(kernels * case.flops(density)))
    ms = session.race(case, density, timers, flops, table=candidate.table(dtype))
    if len(ms) == 2:
        print(f"  {name}: {ms['in use'] / ms[name]:.3f} times as fast as what is in use")


def _program(
    candidate: Candidate, case: Case, name: str, dtype: str
) -> tuple[Callable, list[jax.Array]]:
    """What holds the kernel, and its inputs before the mask."""
    if candidate.kernel == "block_mass":
        q, k = case.inputs(jax.random.key(0), 2, dtype)
        lse = jnp.full((case.batch, case.heads, case.slots), np.log(case.slots), jnp.float32)
        block = min(_MASS_BLOCK, 32 if case.slots < 4096 else _MASS_BLOCK)

        def search(q, k, lse, mask):
            del mask
            return block_mass(q, k, lse, block_q=block, block_kv=block, implementation=name)

        return search, [q, k, lse]

    def attend(q, k, v, mask):
        return block_sparse_attention(q, k, v, mask, implementation=name)

    def train(q, k, v, d_out, mask):
        out, pull = jax.vjp(lambda *x: attend(*x, mask)[0], q, k, v)
        return out, pull(d_out)

    if candidate.kernel == "block_sparse_attention":
        return attend, case.inputs(jax.random.key(0), 3, dtype)
    return train, case.inputs(jax.random.key(0), 4, dtype)


@contextlib.contextmanager
def measured(table: Mapping[str, Any] | None) -> Iterator[None]:
    """Programs traced in this block use `table`, or with None whatever table was in use before."""
    before = os.environ.get(_measured.ENVIRONMENT)
    jax.clear_caches()
    with tempfile.TemporaryDirectory() as folder:
        if table is not None:
            path = Path(folder) / "measured.json"
            path.write_text(json.dumps(table), encoding="utf-8")
            os.environ[_measured.ENVIRONMENT] = str(path)
        try:
            yield
        finally:
            os.environ.pop(_measured.ENVIRONMENT, None)
            if before is not None:
                os.environ[_measured.ENVIRONMENT] = before
            jax.clear_caches()


def denoise(session: Session) -> None:
    """Whole denoising steps of HunyuanVideo at 129 x 720 x 1280, random weights: STA, then dense."""
    from experiments.gpu_check.denoising import measure

    for method in session.in_time((name, name) for name in METHODS):
        measure(session, method)
