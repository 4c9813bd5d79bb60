"""Plans the memory of a run before it starts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import hosts
from models.pipelines import Clip, LatentFamily, Memory

GIB = 2**30
RESERVE = 0.92
"""Share of a device's memory that a run may plan with; the rest is for the runtime, the display and fragments."""


class NotEnoughMemory(ValueError):
    """A run needs more than the device has; the message says what would fit."""


def device_memory(sharing: int = 1) -> int | None:
    """Bytes that a device of the first host offers; None where nobody says.

    Args:
      sharing: devices that a CPU poses as; they share what is free now.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        free = stats["bytes_limit"]
    elif device.platform == "cpu" and Path("/proc/meminfo").is_file():
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        free = int(line.split()[1]) * 1024 // sharing
    else:
        return None
    # All hosts must come to one conclusion. MiB, because without x64 they exchange 32 bits.
    return int(hosts.from_first(np.int32(free >> 20))) << 20


def check_memory(
    family: LatentFamily,
    clip: Clip,
    steps: Mapping[Any, Memory],
    decoding: int,
    *,
    dtype: str,
    tiled: bool,
    limit: int | None,
) -> str:
    """A line that says what the run takes.

    Args:
      steps: the plan of every phase's program; none where only decoding is left.
      decoding: bytes of the VAE's weights and of decoding, as planned.
      dtype: of the weights.
      tiled: whether the VAE works in tiles.
      limit: bytes there are; None: unknown.

    Raises:
      NotEnoughMemory: with clips, dtypes and flags that would fit.
    """
    worst = max(steps.values(), key=lambda m: m.peak, default=Memory(0, 0, 0))
    denoising = (
        f"denoising {_gib(worst.peak)} ({_gib(worst.arguments)} of them weights and latents), "
        if steps
        else ""
    )
    says = f"memory: {denoising}decoding {_gib(decoding)}"
    if limit is None:
        return f"{says}; how much this device has is unknown"
    usable = int(RESERVE * limit)
    says += f"; {_gib(limit)} there"
    if max(worst.peak, decoding) <= usable:
        return says
    advice = []
    if worst.peak > usable:
        fits = []
        if dtype == "float32" and worst.peak - worst.arguments // 2 <= usable:
            fits.append("--dtype bfloat16, which halves the weights")
        fits += [
            f"--frames {c.frames} --height {c.height} --width {c.width}"
            for c in smaller(family, clip, worst, usable)
        ]
        advice.append(_advice("denoising", fits, "the weights alone are too large for this device"))
    if decoding > usable:
        fits = [] if tiled else ["--tile on, which decodes in tiles"]
        advice.append(_advice("decoding", fits, "one tile alone is too large for this device"))
    raise NotEnoughMemory(
        f"{clip} do not fit. {says}, of which a run may plan with {_gib(usable)}. {' '.join(advice)}"
    )


def _advice(what: str, fits: list[str], otherwise: str) -> str:
    if not fits:
        return f"For {what} nothing smaller fits either: {otherwise}."
    return f"For {what} would fit, by arithmetic: {', or '.join(fits)}."


def smaller(family: LatentFamily, clip: Clip, memory: Memory, usable: int) -> list[Clip]:
    """The longest shorter clip, and the largest smaller picture, whose activations fit beside the weights.

    Activations are taken to grow with the latents' volume, as they do with attention that stores no L x L array.
    """
    room = usable - memory.arguments
    if room <= 0:
        return []
    share = room / max(1, memory.temporaries + memory.results)
    found = []
    frames = clip.frames - family.frame_step
    while frames >= 1:
        if (
            family.latent_size(Clip(frames, clip.height, clip.width))[0]
            <= share * family.latent_size(clip)[0]
        ):
            found.append(Clip(frames, clip.height, clip.width))
            break
        frames -= family.frame_step
    unit = [
        ratio * patch for ratio, patch in zip(family.compression[1:], family.patch[1:], strict=True)
    ]
    for eighths in range(7, 0, -1):
        height, width = (
            max(u, n * eighths // 8 // u * u)
            for n, u in zip((clip.height, clip.width), unit, strict=True)
        )
        if height * width <= share * clip.height * clip.width:
            found.append(Clip(clip.frames, height, width))
            break
    return found


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
