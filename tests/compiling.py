"""How XLA compiles the tests' programs: as for users, or with few optimisations in a fraction of the time."""

import os
from enum import Enum

import jax
from jax._src import compiler  # no public option reaches XLA's extra options one program at a time


class Effort(Enum):
    """What a test's programs are compiled with; less takes less time."""

    USERS = "all of XLA's optimisations"
    BITS = "few of them, loops from the emitter that users get"
    LEAST = "few of them, loops from XLA's older emitter"


_EXTRA = "xla_cpu_disable_new_fusion_emitters"
"""The newer emitter of loops sets up MLIR with all dialects for each program, and runs its passes for each loop: most
of the time that a program takes to compile with few optimisations. With all of them, the older one takes longer.
Programs of one function round alike with the newer one more often: the older one rounds by what it fuses."""

_get_compile_options = compiler.get_compile_options
_now = Effort.USERS


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes: its number and kind, its length, its content."""
    encoded = bytearray()
    for n in (number << 3 | 2, len(content)):
        while n > 127:
            encoded.append(n & 127 | 128)
            n >>= 7
        encoded.append(n)
    return bytes(encoded) + content


# CompileOptions.executable_build_options.debug_options.xla_backend_extra_options, a map
_FIELDS = _field(3, _field(3, _field(500, _field(1, _EXTRA.encode()) + _field(2, b""))))


def _with_extra(*args, **kwargs):
    """JAX's options with `_EXTRA`: messages that are concatenated are merged."""
    options = _get_compile_options(*args, **kwargs)
    return type(options).ParseFromString(options.SerializeAsString() + _FIELDS)


def use(effort: Effort) -> Effort:
    """Compile so from now on in this process, and forget what was compiled otherwise; returns what held before."""
    global _now
    held = _now
    if effort is not held:
        # Tests compare bits of one function; its programs must all be of one kind.
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", effort is not Effort.USERS)
        least = effort is Effort.LEAST
        compiler.get_compile_options = _with_extra if least else _get_compile_options
        _now = effort
    return held


def least() -> dict[str, str]:
    """The environment in which a process that a test starts compiles with `Effort.LEAST`."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_extra_options={_EXTRA}"
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": flags}
