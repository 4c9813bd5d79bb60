"""`engine.attend` as a triple, as most tests of patterns want it."""

import jax

from sparsevdit_jax import attend


def attended(pattern, q, k, v, state, ctx):
    """(out, lse, state)."""
    found = attend(pattern, q, k, v, state, ctx)
    return found.out, found.lse, found.state


def jitted(pattern, **kwargs):
    """The same as a jitted function of q, k, v, state and ctx; `kwargs` for `jax.jit`."""

    def call(q, k, v, state, ctx):
        return attended(pattern, q, k, v, state, ctx)

    return jax.jit(call, **kwargs)
