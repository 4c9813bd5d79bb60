"""Runs `on_eight_devices/` in a process whose CPU poses as eight devices, which must be said before JAX starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("on_eight_devices")


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("check_*.py")))
def test_on_eight_devices(name, request):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    chosen = ["-m", request.config.getoption("-m")]
    if request.config.getoption("--optimised"):
        chosen.append("--optimised")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *chosen,
            FOLDER / f"{name}.py",
        ],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout
