"""Two real processes of two devices each, over loopback: killed in the middle, restarted, the same bits."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from .generation import folders

GENERATE = dict(frames=9, height=64, width=96, steps=4, prompt="a cat rides a skateboard", seed=3,
                attention="adaspa", save_every=1, cfg=2, seq=2)  # fmt: skip
TRAIN = dict(save_every=2, data=2, seq=2)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return folders.wan(tmp_path_factory.mktemp("wan"))


def environment(devices: int, **variables: str) -> dict[str, str]:
    """This one's without a cluster that JAX might find in it."""
    theirs = ("JAX_", "XLA_", "SLURM_", "OMPI_", "KUBERNETES_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    flags = f"--xla_force_host_platform_device_count={devices}"
    return kept | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | variables


def launch(command: list[str], log, devices: int = 2, **variables: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.experiments.one_host", *map(str, command)]
    return subprocess.Popen(
        command, env=environment(devices, **variables), stdout=log, stderr=subprocess.STDOUT
    )


def two(command: list[str], folder):
    """Starts two processes that know of each other; their logs are in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for i in range(2):
        variables = dict(
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i)
        )
        with open(folder / f"{i}.log", "a") as log:
            processes.append(launch(command, log, **variables))
    return processes


def finish(processes, folder) -> None:
    """Both end well, within the time that the slowest machine needs."""
    for process in processes:
        assert process.wait(timeout=300) == 0, logs(folder)


def logs(folder) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))


def kill(processes, stopped, folder) -> None:
    """kill -9, once the first process has written `stopped` and the other waits for it."""
    for _ in range(3000):
        if stopped.exists() or any(process.poll() is not None for process in processes):
            break
        time.sleep(0.1)
    assert stopped.exists(), logs(folder)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()


def arrays(path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


def command(kind: str, out, stop_after: int, model, flags: dict) -> list[str]:
    return [kind, out, stop_after, *([model] if kind == "generate" else []), json.dumps(flags)]


@pytest.mark.parametrize(("kind", "flags"), [("generate", GENERATE), ("train", TRAIN)])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(kind, flags, wan, tmp_path):
    flags = flags | {"distributed": True}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    processes = two(command(kind, whole, -1, wan, flags), tmp_path)
    finish(processes, tmp_path)
    kill(
        two(command(kind, broken, 2, wan, flags), tmp_path),
        broken.with_suffix(".stopped"),
        tmp_path,
    )
    assert not broken.with_suffix(".mp4").exists()
    finish(two(command(kind, broken, -1, wan, flags), tmp_path), tmp_path)
    found, expected = (arrays(out.with_suffix(".npz")) for out in (broken, whole))
    assert found
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
