"""`pytest --margins`: how near every numerical comparison of a run came to its tolerance, worst first.

A plugin that tests/conftest.py loads. Without the option nothing is wrapped and nothing is kept. With it, each passing
or failing `np.testing.assert_allclose`, each `pytest.approx` that holds and each comparison by tests/tolerances.py
is kept with its error, its tolerance and their ratio (the share), at the element where that is largest. The table has
one row per test, its worst, and covers all workers of pytest-xdist and the pytest runs that tests start. A share above
one half needs a reason, which the test gives (`near=`); the table counts those without. `--margins-record` also appends
a row to experiments/results/margins.jsonl.

The whole suite as another CPU would compute it, with a compilation cache of its own:

    ONEDNN_MAX_CPU_ISA=AVX2 XLA_FLAGS="--xla_cpu_max_isa=AVX --xla_cpu_experimental_ynn_fusion_type=" \\
    JAX_COMPILATION_CACHE_DIR=/tmp/jax-other-cpu make test ARGS="--margins --margins-record"

`xla_cpu_max_isa` alone reaches only what XLA compiles itself: with AVX there is no fused multiply-add, with AVX2 the
bits are those of AVX-512, whose programs prefer vectors of 256 bits too, and with SSE4_2 float16 does not compile.
Products and sums come from YNNPACK, which asks the processor itself; the empty `ynn_fusion_type` leaves them to other
code, with another order. Convolutions come from oneDNN, which reads `ONEDNN_MAX_CPU_ISA`. Large products kept their
bits under all of these (jaxlib 0.11.2).
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests import tolerances

TESTS = Path(__file__).parent
NEAR = 0.5  # a share above it lies nearer than a factor of two to the tolerance
ROWS = 40  # of the table, unless more are near without a reason
FILE = "PYTEST_MARGINS"  # variable that names the file in which a pytest run within a test leaves its margins
RECORDED = 10  # worst of them, in a record
# Frames of these files are never the test that compares.
HELPERS = {__file__, tolerances.__file__, str(TESTS / "models" / "parity.py")}


@dataclasses.dataclass(frozen=True, slots=True)
class Margin:
    """One comparison; `near` is the test's reason to stand close to its tolerance."""

    share: float
    error: float
    tolerance: float
    test: str
    where: str
    near: str = ""


def pytest_addoption(parser):
    group = parser.getgroup("margins", "distance of numerical comparisons from their tolerances")
    group.addoption(
        "--margins",
        action="store_true",
        help="print error / tolerance of every test's worst comparison, worst first (tests/margins.py)",
    )
    group.addoption(
        "--margins-record",
        action="store_true",
        help="append the worst of them to experiments/results/margins.jsonl; implies --margins",
    )


def pytest_configure(config):
    asked = config.getoption("margins") or config.getoption("margins_record")
    if asked or FILE in os.environ:
        config.pluginmanager.register(Margins(config), "margins-recorder")


class Margins:
    """Collects the margins of one process; that of the controller prints those of all."""

    def __init__(self, config):
        self.config = config
        self.margins: list[Margin] = []
        self._allclose = np.testing.assert_allclose
        self._approx = type(pytest.approx(0.0))
        self._equals = self._approx.__eq__
        np.testing.assert_allclose = self._assert_allclose
        self._approx.__eq__ = lambda scalar, actual: self._approx_equals(scalar, actual)
        self._observer, tolerances.observer = tolerances.observer, self.observe
        # A worker inherits the controller's variable, but is no run within a test.
        self._own_file = None if hasattr(config, "workerinput") else os.environ.get(FILE)
        self._folder = tempfile.TemporaryDirectory()
        self._inner_file = Path(self._folder.name) / "margins"
        os.environ[FILE] = str(self._inner_file)

    def pytest_unconfigure(self):
        """Puts everything back, for pytest runs within this one."""
        np.testing.assert_allclose = self._allclose
        self._approx.__eq__ = self._equals
        tolerances.observer = self._observer
        os.environ.pop(FILE)
        self._folder.cleanup()

    def observe(self, error: float, tolerance: float, near: str = "") -> None:
        """Keeps one comparison; one of equal numbers without a tolerance says nothing."""
        error, tolerance = float(error), float(tolerance)
        if tolerance == 0 and error == 0:
            return
        share = error / tolerance if tolerance > 0 else np.inf
        test = os.environ.get("PYTEST_CURRENT_TEST", "(no test)").rpartition(" (")[0]
        self.margins.append(Margin(share, error, tolerance, test, _where(), near))

    def _assert_allclose(self, actual, desired, rtol=1e-7, atol=0, *args, **kwargs):
        __tracebackhide__ = True
        self._allclose(actual, desired, rtol, atol, *args, **kwargs)
        got, want = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (actual, desired)))
        compared = np.isfinite(got) & np.isfinite(want)
        if not compared.any():
            return
        error = np.abs(got[compared] - want[compared])
        allowed = atol + rtol * np.abs(want[compared])
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(error == 0, 0, error / allowed)
        worst = share.argmax()
        self.observe(error[worst], allowed[worst])

    def _approx_equals(self, scalar, actual):
        equal = self._equals(scalar, actual)
        if equal is True and not isinstance(actual, bool) and np.isfinite(scalar.expected):
            self.observe(abs(actual - scalar.expected), scalar.tolerance)
        return equal

    def pytest_runtest_logreport(self, report):
        """A comparison that failed in a test that passed was meant to fail."""
        if report.when == "call" and report.passed:
            self.margins = [m for m in self.margins if m.share <= 1 or m.test != report.nodeid]

    def pytest_sessionfinish(self):
        """Takes the margins of runs within tests, and hands all on where this process is not the first."""
        if self._inner_file.exists():
            lines = self._inner_file.read_text().splitlines()
            self.margins.extend(Margin(*json.loads(line)) for line in lines)
        rows = [dataclasses.astuple(m) for m in self.margins]
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["margins"] = rows
        if self._own_file:
            with open(self._own_file, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        """The controller takes them."""
        rows = getattr(node, "workeroutput", {}).get("margins", [])
        self.margins.extend(Margin(*row) for row in rows)

    def pytest_terminal_summary(self, terminalreporter):
        """The table, and the record."""
        worst = worst_of_tests(self.margins)
        unexplained = [m for m in worst if m.share > NEAR and not m.near]
        write = terminalreporter.write_line
        terminalreporter.section("margins")
        write(f"{'share':>6} {'error':>9} {'tolerance':>9}  test (worst comparison)")
        for m in worst[: max(ROWS, len([m for m in worst if m.share > NEAR]))]:
            write(f"{m.share:6.3f} {m.error:9.2e} {m.tolerance:9.2e}  {m.test} ({m.where})")
            if m.near:
                write(f"{'':28}near because {m.near}")
        write(
            f"{len(self.margins)} comparisons in {len(worst)} tests; {len(unexplained)} tests use more "
            f"than {NEAR} of a tolerance and do not say why"
        )
        if self.config.getoption("margins_record"):
            write(f"appended to {record(self.config, self.margins)}")


def worst_of_tests(margins: list[Margin]) -> list[Margin]:
    """One margin per test, its worst; a near one without a reason counts before one with."""
    found: dict[str, Margin] = {}
    for m in sorted(margins, key=lambda m: (m.share <= NEAR, bool(m.near), -m.share)):
        found.setdefault(m.test, m)
    return sorted(found.values(), key=lambda m: -m.share)


def record(config, margins: list[Margin], **where) -> str:
    """Appends what a later reader compares: for which instruction set, how many, the worst; `where` is Run.start's."""
    from experiments.record import Run

    flags = os.environ.get("XLA_FLAGS", "")
    isa = [f.partition("=")[2] for f in flags.split() if f.startswith("--xla_cpu_max_isa=")]
    settings = {
        "max_isa": isa[-1] if isa else "default",
        "xla_flags": flags,
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "default"),
        "command": ["pytest", *map(str, config.invocation_params.args)],
    }
    worst = worst_of_tests(margins)
    run = Run.start("margins", settings, allow_dirty=True, **where)
    run.log(
        comparisons=len(margins),
        tests=len(worst),
        near_without_reason=sum(m.share > NEAR and not m.near for m in worst),
        worst=[dataclasses.asdict(m) for m in worst[:RECORDED]],
    )
    return run.path.name


def _where() -> str:
    """File and line of the innermost frame that belongs to a test."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name not in HELPERS and name.startswith(str(TESTS)):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
