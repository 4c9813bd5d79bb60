"""A plugin of pytest: seconds of every test, a JSON line [test, wall, CPU] each, to the files TEST_TIMES.<process>."""

import json
import os
import time

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    wall, cpu = time.monotonic(), _cpu()
    result = yield
    row = item.nodeid, round(time.monotonic() - wall, 3), round(_cpu() - cpu, 3)
    with open(f"{os.environ['TEST_TIMES']}.{os.getpid()}", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return result


def _cpu() -> float:
    """Seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
