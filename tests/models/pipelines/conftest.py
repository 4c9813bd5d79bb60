"""Programs here run once on tiny models: compiling them is what takes the time."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def quickly():
    """Compiles without most optimisations; they change the last bits only.

    Its programs are forgotten afterwards: tests elsewhere compare bits of the same functions.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
