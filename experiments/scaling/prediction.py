"""What a step should take on n H200s, from what it computes and moves. A prediction: nothing here was timed.

Rates are those that others have published for the same work on a Hopper chip (sources beside them), bandwidths are
the data sheet's times a share. Computing and moving are added, as if nothing overlapped.
"""

import dataclasses
import math

from experiments.full_size.published_clips import FullSize

MATMUL_FLOPS = 0.65 * 989.5e12
"""bfloat16 products of the projections: a usual share of an H200's peak."""
ATTENTION_FLOPS = {"dense": 576e12, "sta": 582e12}
"""On an H100: cuDNN on HunyuanVideo's shape (NATTEN's benchmark), and STA's kernel at 91 % sparsity (its paper)."""
NVLINK_BYTES = 0.8 * 450e9
"""A second each way between the 8 GPUs of a machine."""
NETWORK_BYTES = 0.8 * 50e9
"""A second for each GPU to other machines: 400 Gb/s."""
MACHINE = 8
"""GPUs joined by NVLink."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh: devices for guidance's rows and for tokens."""

    cfg: int
    seq: int

    @property
    def devices(self) -> int:
        """All of them."""
        return self.cfg * self.seq

    def __str__(self):
        return f"cfg {self.cfg} x seq {self.seq}"

    @classmethod
    def of(cls, work: "Work", devices: int) -> "Layout":
        """The rule: guidance's two rows first, for they exchange nothing; the rest to the tokens."""
        cfg = work.rows if devices % work.rows == 0 else 1
        return cls(cfg, devices // cfg)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step of one clip has to do.

    Attributes:
      method: attention.
      tokens: of the sequence that attends, L.
      heads: H.
      head_dim: D.
      layers: that attend.
      rows: 2 with guidance.
      parameters: of the transformer.
      density: of attention.
    """

    method: str
    tokens: int
    heads: int
    head_dim: int
    layers: int
    rows: int
    parameters: int
    density: float

    @classmethod
    def of(cls, case: FullSize, method: str) -> "Work":
        """That of a published model."""
        return cls(
            method,
            case.denoiser("dense").grid.num_tokens,
            case.transformer.num_heads,
            case.transformer.head_dim,
            case.model().num_attention_layers,
            2 if case.guided else 1,
            case.counts()[0],
            case.density(method),
        )


def exchanged_bytes(work: Work, layout: Layout) -> int:
    """What a device holds of all that is exchanged in one step: q, k, v and the output of every layer.

    With whole heads on each device 4 rows ceil(L / n) H' D numbers of 2 bytes, H' the heads with those that are
    added to divide; in a ring the n - 1 hops of k and v.
    """
    n = layout.seq
    if n == 1:
        return 0
    share = work.rows // layout.cfg * math.ceil(work.tokens / n) * work.head_dim * 2
    if work.heads < n:
        return work.layers * 2 * (n - 1) * share * work.heads
    return work.layers * 4 * share * math.ceil(work.heads / n) * n


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one step."""

    matmul_s: float
    attention_s: float
    exchange_s: float

    @property
    def step_s(self) -> float:
        """Their sum."""
        return self.matmul_s + self.attention_s + self.exchange_s


def predict(work: Work, layout: Layout) -> Prediction:
    """One step on a mesh, weights whole on each device (both models fit)."""
    n, heads = layout.seq, work.heads
    matmul = 2 * work.parameters * work.tokens * work.rows / MATMUL_FLOPS / layout.devices
    pairs = work.density * work.tokens**2
    attention = 4 * pairs * heads * work.head_dim * work.layers * work.rows
    attention /= ATTENTION_FLOPS[work.method] * layout.devices
    if heads >= n:  # devices with an added head wait for those without
        attention *= math.ceil(heads / n) * n / heads
    near = min(n, MACHINE)
    within, across = (near - 1) / n, (n - near) / n
    seconds_per_byte = within / NVLINK_BYTES + across / NETWORK_BYTES
    return Prediction(matmul, attention, exchanged_bytes(work, layout) * seconds_per_byte)
