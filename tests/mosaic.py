"""What the tests of Mosaic GPU kernels share: lowering, and mutants that may hang."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

needs_interpreter = pytest.mark.skipif(
    jax.__version_info__[:3] < (0, 11, 2), reason="JAX's Mosaic GPU interpreter needs jax >= 0.11.2"
)

_ROOT = Path(__file__).resolve().parents[1]
_HUNG = 86  # exit status of a process that stopped making progress


def lower_for_cuda(f: Callable, *args: jax.ShapeDtypeStruct) -> str:
    """The program that a CUDA device would get, as text; needs neither the device nor its plugin."""
    return jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def give_up_when_idle(seconds: float = 6.0, step: float = 0.25) -> None:
    """Ends this process once it has used no CPU time for so long: its kernel waits for ever.

    Counts its own ticks, so a process that was paused, or starved as a whole, is not mistaken.
    """

    def watch():
        idle, used = 0, time.process_time()
        while idle * step < seconds:
            time.sleep(step)
            now = time.process_time()
            idle, used = (idle + 1 if now - used < step / 50 else 0), now
        os._exit(_HUNG)

    threading.Thread(target=watch, daemon=True).start()


def verdicts(module: str, mutants: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """How each mutant ends: the last word of `python -m module *mutant`, or "hang".

    Two run at a time.

    Raises:
      CalledProcessError: one broke outside the kernel, which says nothing about the mutant.
    """

    def run(mutant):
        command = [sys.executable, "-m", module, *mutant]
        environment = os.environ | {"NPROC": "16", "JAX_PLATFORMS": "cpu"}
        ended = subprocess.run(
            command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=600
        )
        if ended.returncode == _HUNG:
            return "hang"
        ended.check_returncode()
        return ended.stdout.split()[-1]

    mutants = list(mutants)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(mutants, pool.map(run, mutants), strict=True))
