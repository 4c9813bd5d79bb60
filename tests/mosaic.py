"""What the tests of Mosaic GPU kernels share: lowering, and mutants that may hang."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import pytest

from pallas_kernels import _interpret
from tests import compiling

needs_interpreter = pytest.mark.skipif(
    jax.__version_info__[:3] < (0, 11, 2), reason="JAX's Mosaic GPU interpreter needs jax >= 0.11.2"
)

_ROOT = Path(__file__).resolve().parents[1]
_MARK = "verdict: "
_HUNG = 86  # exit status of a process that stopped making progress
_TRIES = 6
NOTHING = "nothing"  # is left out of the kernel as it is


def lower_for_cuda(f: Callable, *args: jax.ShapeDtypeStruct) -> str:
    """The program that a CUDA device would get, as text; needs neither the device nor its plugin."""
    return jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def give_up_when_idle(seconds: float = 3.0, step: float = 0.25) -> None:
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


def verdict(f: Callable, *args: Any, agrees: Callable[[Any], bool]) -> str:
    """How an interpreted call ends: clean, wrong, race, or error and what the interpreter objects to.

    "wrong" is without a race and without an objection, but `agrees` does not hold of the results.
    """
    try:
        results, races_found = _interpret.run(f, *args, detect_races=True)
    except Exception as error:
        return f"error: {str(error).strip().splitlines()[-1]}"
    return "race" if races_found else "clean" if agrees(results) else "wrong"


def judge(verdict: Callable[..., str]) -> None:
    """The program of a module of mutants, for `verdicts`: judges those named in its argument.

    Clean is who was clean `_TRIES` times, and the kernel as it is who was once. The interpreter hands copies to
    simulated TMA threads as they come free, and every copy counts up only its own view of its thread's clock. So a
    read that is ordered after one copy can look ordered after another that the same thread did: about one run in nine
    shows no race where a wait for a consumer's own rows is left out.
    """
    give_up_when_idle()
    for mutant in json.loads(sys.argv[1]):
        tries = (verdict(*mutant) for _ in range(1 if mutant[-1] == NOTHING else _TRIES))
        print(_MARK + next((end for end in tries if end != "clean"), "clean"), flush=True)
    os._exit(0)  # what still waits in a simulated warp is not waited for


def verdicts(module: str, mutants: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """How each mutant ends, by `judge` in `python -m module`; "hang" if it stopped for ever.

    They share a process until one hangs; the next ones get a new one.

    Raises:
      RuntimeError: a process ended for another reason, which says nothing about the mutant.
    """
    mutants, found = list(mutants), []
    least = compiling.least()
    environment = os.environ | least | {"NPROC": "64", "JAX_PLATFORMS": "cpu"}
    while len(found) < len(mutants):
        command = [sys.executable, "-m", module, json.dumps(mutants[len(found) :])]
        ended = subprocess.run(
            command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=900
        )
        lines = ended.stdout.splitlines()
        found += [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
        if ended.returncode == _HUNG:
            found.append("hang")
        elif ended.returncode:
            raise RuntimeError(f"{module} failed:\n{ended.stderr}")
    return dict(zip(mutants, found, strict=True))
