"""Runs `on_eight_devices/` in a process whose CPU poses as eight devices, which must be said before JAX starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("on_eight_devices")


@pytest.mark.long
def test_on_eight_devices(request):
    checks = sorted(FOLDER.glob("check_*.py"))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    chosen = ["-m", request.config.getoption("-m")]
    if request.config.getoption("--optimised"):
        chosen.append("--optimised")
    # One process for all: each would import JAX and the models again.
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen, *checks]
    ended = subprocess.run(
        command,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for check in checks:
        assert any(check.name in line and "PASSED" in line for line in ended.stdout.splitlines())
