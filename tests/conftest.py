"""What every test runs under: strict types and ranks, reproducible hypothesis, one key."""

import gc
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

from tests import compiling
from tests.compiling import Effort

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


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that both workers end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not walk it again, all the time that JAX traces."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _effort(request) -> Effort:
    """Most tests compile with few of XLA's optimisations: compiling is most of their time.

    Optimisations change the last bits only. Modules and tests with the mark `optimised` compile as users do, where
    promised bits, numbers of other implementations, memory or communication are the subject. Tests with the mark
    `bits`, and those of sparsevdit_jax, compare many programs of one function bit for bit.
    """
    if request.config.getoption("--optimised") or request.node.get_closest_marker("optimised"):
        return Effort.USERS
    parts = request.path.relative_to(_TESTS).parts
    quick = "on_eight_devices" in parts and parts[-1] in ("check_vae.py", "check_models.py")
    bits = (parts[0] == "sparsevdit_jax" and not quick) or request.node.get_closest_marker("bits")
    return Effort.BITS if bits else Effort.LEAST


@pytest.fixture(autouse=True, scope="module")
def _compiled(request):
    compiling.use(_effort(request))


@pytest.fixture(autouse=True)
def _compiled_otherwise(request, _compiled):
    """For a test with the mark in a module that has none."""
    before = compiling.use(_effort(request))
    yield
    compiling.use(before)


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
