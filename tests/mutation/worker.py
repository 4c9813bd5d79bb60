"""Runs tests in forks of one process that has imported what all of them import, none of it ours.

Started in the tree that is tested, as a script. A line of stdin is a JSON list: seconds allowed, file for the
output, arguments of pytest. The answer is pytest's exit status, or minus the signal that ended it.
"""

import json
import os
import signal
import sys

os.environ.setdefault("NPROC", "16")  # as tests/conftest.py: before jax is imported

import flax.nnx
import jax
import jax.experimental.pallas
import pytest
import safetensors.numpy
import scipy.optimize

IMPORTED = flax.nnx, jax, jax.experimental.pallas, safetensors.numpy, scipy.optimize


def main():
    sys.path[0] = os.getcwd()
    for line in sys.stdin:
        limit, log, arguments = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(limit)
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            status = int(pytest.main(arguments))
            sys.stdout.flush()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
