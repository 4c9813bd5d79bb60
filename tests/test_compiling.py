import jax
from jax._src import compiler

from tests import compiling
from tests.compiling import Effort


def test_the_older_emitter_is_asked_for_where_bits_are_not_compared():
    found = {}
    before = compiling.use(Effort.USERS)
    try:
        for effort in Effort:
            compiling.use(effort)
            options = compiler.get_compile_options(1, 1).SerializeAsString()
            few = jax.config.read("jax_disable_most_optimizations")
            # XLA writes the field only if it knew it: what it does not know, it drops.
            found[effort] = few, compiling._EXTRA.encode() in options
    finally:
        compiling.use(before)
    assert found == {
        Effort.USERS: (False, False),
        Effort.BITS: (True, False),
        Effort.LEAST: (True, True),
    }
