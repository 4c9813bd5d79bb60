"""CostTable: what a head of a pattern costs relative to a dense head, by measured time or by density.

Sparse-vDiT (arXiv 2506.03065) assumes that a mode saves its sparsity. A launch also pays for
reordering, for lists and for short rows, and these depend on the device. So a measured time replaces
the density where there is one. `experiments/measure_costs.py` writes the tables.
"""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np

from sparsevdit_jax import codec
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern

FORMAT = "sparsevdit-jax/costs"
VERSION = 1
SETTING = ("device", "implementation", "dtype", "tokens", "num_heads", "head_dim", "batch")


@dataclasses.dataclass(frozen=True)
class Cost:
    """One head of a pattern relative to one dense head.

    Attributes:
      value: 0 is free, 1 is dense; a measured one may lie above 1.
      measured: whether `value` comes from times on this device and shape; otherwise it is the density.
        Compare only costs of one kind.
    """

    value: float
    measured: bool


@dataclasses.dataclass(frozen=True)
class Timing:
    """One pattern on a setting.

    Attributes:
      kind: the pattern's class, as `codec.class_name` writes it.
      block: tokens in its blocks.
      density: kept / all token pairs, text included.
      latency_ms: of all heads and batch rows, from raster order to raster order, in a REUSE step.
    """

    kind: str
    block: int
    density: float
    latency_ms: float

    def __post_init__(self):
        _check_positive("block", self.block, int | np.integer)
        _check_positive("latency_ms", self.latency_ms)
        _check_positive("density", self.density)
        if not self.density <= 1:
            raise ValueError(f"density={self.density} must lie in (0, 1]: kept / all token pairs")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Times of one run on one setting, taken in turns, so that their ratios hold.

    Attributes:
      device: kind of device, as jax names it. jax calls every processor "cpu", so a table from
        another processor counts as this one's; see `environment`.
      implementation: name that the kernels were asked for; None: they chose.
      dtype: of q, k and v.
      tokens: length of the sequence, text included.
      num_heads: heads of the launch.
      head_dim: numbers in a head.
      batch: rows of the launch.
      environment: (name, value) pairs: versions of what ran, the processor.
      dense_ms: dense attention.
      timings: block-sparse patterns.
    """

    device: str
    implementation: str | None
    dtype: str
    tokens: int
    num_heads: int
    head_dim: int
    batch: int
    environment: tuple[tuple[str, str], ...]
    dense_ms: float
    timings: tuple[Timing, ...]

    def __post_init__(self):
        pairs = tuple((str(name), str(value)) for name, value in self.environment)
        object.__setattr__(self, "environment", pairs)
        object.__setattr__(self, "timings", tuple(self.timings))
        for name in ("tokens", "num_heads", "head_dim", "batch"):
            _check_positive(name, getattr(self, name), int | np.integer)
        _check_positive("dense_ms", self.dense_ms)

    @property
    def setting(self) -> tuple:
        """What tells one measurement of a table from another."""
        return tuple(getattr(self, name) for name in SETTING)

    def curve(self, kind: str, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Densities, ascending and distinct, and the cost relative to dense at each, float64."""
        found: dict[float, list[float]] = {}
        for timing in self.timings:
            if (timing.kind, timing.block) == (kind, block):
                found.setdefault(timing.density, []).append(timing.latency_ms / self.dense_ms)
        densities = np.asarray(sorted(found))
        return densities, np.asarray([np.mean(found[d]) for d in densities])


@dataclasses.dataclass(frozen=True)
class CostTable:
    """Measured times of attention, and the costs that follow from them.

    An empty table is the analytic cost: `CostTable().relative(...)` is the density.

    Attributes:
      measurements: one for each setting.
    """

    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "measurements", tuple(self.measurements))
        settings = [m.setting for m in self.measurements]
        if twice := [s for s in settings if settings.count(s) > 1]:
            raise ValueError(f"the table measures {twice[0]} twice; keep one, see `replace`")

    def replace(self, measurement: Measurement) -> "CostTable":
        """This table with `measurement` in place of that of the same setting, or added."""
        others = (m for m in self.measurements if m.setting != measurement.setting)
        return CostTable((*others, measurement))

    def relative(
        self,
        pattern: AttentionPattern,
        grid: VideoGrid,
        *,
        num_heads: int,
        head_dim: int,
        dtype,
        batch: int | None = None,
        device: str | None = None,
        implementation: str | None = None,
    ) -> Cost:
        """What one head of `pattern` costs relative to one dense head.

        `Dense` is 1 and `Skip` is 0 by definition. Another pattern costs measured ms / measured
        dense ms of its kind and block size, linear in density between measured densities. Below
        them it costs what the lowest one does: a launch has costs that no density takes away, and
        nothing measured says how small they are. Above them the last segment is continued, and at
        least the cost of the highest one is taken.

        Measurements hold for a number of tokens: kernels see blocks, not videos, so other latent grids
        with as many tokens share them.

        Args:
          pattern: what a head uses. One with a window for each head gives the heads' mean.
          grid: shape of the sequence.
          num_heads: heads of the layer.
          head_dim: numbers in a head.
          dtype: of q, k and v.
          batch: rows of the launch. None: the fewest measured for this shape.
          device: kind of device as jax names it. None: that of jax's first device.
          implementation: name that the kernels are asked for; None: they choose.

        Raises:
          ValueError: `pattern` mixes patterns (ask for each), or chooses no blocks.
        """
        device = jax.devices()[0].device_kind if device is None else device
        shape = (grid.num_tokens, num_heads, head_dim)
        measurement = self._find((device, implementation, jnp.dtype(dtype).name, *shape), batch)
        densities = head_densities(pattern, grid, num_heads)
        if pattern.is_dense or not any(densities):
            return Cost(float(pattern.is_dense), measurement is not None)
        curve = None
        if measurement is not None:
            curve = measurement.curve(codec.class_name(type(pattern)), pattern.block_on(grid))
        if curve is None or not curve[0].size:
            return Cost(float(np.mean(densities)), False)
        return Cost(float(np.mean([_interpolate(d, *curve) for d in densities])), True)

    def _find(self, setting, batch):
        """The measurement of this setting (without batch) and batch, or None."""
        fits = [m for m in self.measurements if m.setting[:-1] == setting]
        if batch is not None:
            fits = [m for m in fits if m.batch == batch]
        return min(fits, key=lambda m: m.batch, default=None)

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "measurements": [
                {**dataclasses.asdict(m), "environment": dict(m.environment)}
                for m in self.measurements
            ],
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "CostTable":
        """The inverse of `to_json`.

        Raises:
          ValueError: not such a file, another version, an unknown or missing field, or a value that
            no measurement has.
        """
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"not JSON ({error}); write the file with CostTable.to_json"
            ) from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT!r}; write it with CostTable.to_json")
        if document.get("version") != VERSION:
            raise ValueError(
                f"the file has format version {document.get('version')}, this library reads "
                f"{VERSION}; measure again with this library"
            )
        fields = ("format", "version", "measurements")
        codec.check_fields("the file", document, fields, fields)
        return cls(tuple(_measurement(m) for m in document["measurements"]))


@functools.lru_cache(maxsize=4096)
def head_densities(pattern: AttentionPattern, grid: VideoGrid, num_heads: int) -> tuple[float, ...]:
    """Kept / all token pairs of each head by the pattern's settings alone, before any search.

    That of `AdaSpa` is what it keeps after a search; heads that trade blocks leave the mean as it
    is. Others: `metrics.density`, which also knows a window for each head.

    Raises:
      ValueError: `pattern` mixes patterns, or chooses no blocks.
    """
    if pattern.members:
        raise ValueError(
            f"{type(pattern).__name__} mixes patterns, so no density is its own; ask for the pattern "
            "of each head"
        )
    return tuple(pattern.density_on(grid, num_heads).tolist())


def _interpolate(density, densities, costs):
    """Linear between measured densities; outside as `CostTable.relative` says."""
    if density <= densities[-1] or len(densities) == 1:
        return float(np.interp(density, densities, costs))
    (d0, d1), (c0, c1) = densities[-2:], costs[-2:]
    return float(max(c1 + (c1 - c0) / (d1 - d0) * (density - d1), c1))


def _measurement(fields):
    """A Measurement from its JSON object."""
    fields = _whole(Measurement, fields)
    environment, timings = fields["environment"], fields["timings"]
    if not isinstance(environment, dict) or not isinstance(timings, list):
        raise ValueError("environment must be an object and timings a list; measure again")
    parts = {
        "environment": tuple(environment.items()),
        "timings": tuple(codec.build(Timing, _whole(Timing, t)) for t in timings),
    }
    return codec.build(Measurement, {**fields, **parts})


def _whole(cls, value):
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} must be a {cls.__name__}; measure again")
    return value


def _check_positive(name, value, kind: type = float | int | np.number):
    number = isinstance(value, kind) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}={value!r} must be a positive finite number; measure again")
