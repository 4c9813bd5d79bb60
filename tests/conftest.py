"""What every test runs under: strict types and ranks, reproducible hypothesis, one key."""

import os
from pathlib import Path

os.environ.setdefault("NPROC", "16")  # threads for JAX; read once, needed by `_interpret`

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = ["tests.margins"]

# The same examples on every run; no deadline, because the first call of each shape compiles.
hypothesis.settings.register_profile(
    "reproducible",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Every program that XLA compiled for a CPU holds memory maps, of which Linux allows a
    process 65,530; one more is a segmentation fault in whatever test comes next."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()


@pytest.fixture
def key() -> jax.Array:
    """A fixed random key; split it for more."""
    return jax.random.key(0)
