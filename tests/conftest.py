"""What every test runs under: strict types and ranks, reproducible hypothesis, one key."""

import os
from pathlib import Path

os.environ.setdefault("NPROC", "16")  # threads for JAX; read once, needed by `_interpret`
# Programs compiled once are kept for the other worker, for processes that tests start, and for the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1].resolve() / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = ["tests.margins"]

_TESTS = Path(__file__).resolve().parent

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


def pytest_addoption(parser):
    """`--optimised`: what `make test-all` passes."""
    parser.addoption(
        "--optimised",
        action="store_true",
        help="compile every test with all of XLA's optimisations, as users do",
    )


@pytest.fixture(autouse=True, scope="module")
def _optimisations(request):
    """Most tests compile with few of XLA's optimisations: compiling is most of their time.

    Optimisations change the last bits only. Kernels are compiled as users compile them, and so are modules with the
    mark `optimised`, where numbers of other implementations, memory or communication are the subject.
    """
    as_users_do = (
        request.path.relative_to(_TESTS).parts[0] == "pallas_kernels"
        or request.node.get_closest_marker("optimised") is not None
        or request.config.getoption("--optimised")
    )
    quick = not as_users_do
    if quick != jax.config.read("jax_disable_most_optimizations"):
        # Tests compare bits of one function; its programs must all be of one kind.
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", quick)


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
