"""`engine.attend` as a triple, as most tests of patterns want it."""

import functools

import jax

from sparsevdit_jax import attend


def attended(pattern, q, k, v, state, ctx):
    """(out, lse, state)."""
    found = attend(pattern, q, k, v, state, ctx)
    return found.out, found.lse, found.state


@functools.cache
def jitted(pattern):
    """The same as a jitted function of q, k, v, state and ctx; tests of one pattern share it."""
    return jitted_anew(pattern)


def jitted_anew(pattern, **kwargs):
    """One that has compiled nothing yet, for tests that count or change what is traced; `kwargs` for `jax.jit`."""

    def call(q, k, v, state, ctx):
        return attended(pattern, q, k, v, state, ctx)

    return jax.jit(call, **kwargs)
