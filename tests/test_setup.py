"""What `make` and .ci/setup.sh do with what they are given; nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("cat", "cksum", "dirname", "find", "mkdir", "rm", "sed", "tr")
FAKE = """#!/bin/sh
case "$2" in
  -c) {probe} ;;
  *) echo "venv at $*" >&2; exit 1 ;;
esac
"""


class Machine:
    """A folder with the set-up script in it and a PATH on which only fakes are called python."""

    def __init__(self, root: Path):
        self.root, self.bin = root, root / "bin"
        (root / ".ci").mkdir()
        self.bin.mkdir()
        for name in ("pyproject.toml", "constraints-py311.txt", "constraints-py312.txt"):
            shutil.copy(ROOT / name, root)
        shutil.copy(ROOT / ".ci/setup.sh", root / ".ci")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def script(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def python(self, path: Path, version: str) -> Path:
        """A fake interpreter: answers what it is asked, and makes no environments."""
        minor = version.rpartition(".")[0]
        return self.script(path, FAKE.format(probe=f'echo "{minor} {version} $0"'))

    def set_up(self, *arguments: str, python: Path | str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            [shutil.which("bash"), self.root / ".ci/setup.sh", *arguments],
            env={"PATH": str(self.bin), "PYTHON": str(python)},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_the_newest_supported_interpreter_that_runs_is_taken(machine):
    machine.script(machine.bin / "python3.13", "#!/bin/sh\necho not installed\nexit 127\n")
    machine.python(machine.bin / "python3.11", "3.11.9")
    machine.python(machine.bin / "python3", "3.14.0")
    chosen = machine.python(machine.bin / "python3.12", "3.12.4")
    done = machine.set_up("demo")
    assert f"set-up: Python 3.12.4 ({chosen}) -> .venv" in done.stdout
    assert done.returncode == 1
    assert "python -m venv failed" in done.stderr  # that of the fake, which comes next
    assert not list((machine.root / ".venv").glob(".stamp*"))


def test_an_old_one_is_enough_and_pyenv_is_asked(machine):
    chosen = machine.python(machine.bin / "python3", "3.11.2")
    assert f"Python 3.11.2 ({chosen}) ->" in machine.set_up("test").stdout
    pyenv = machine.root / "pyenv"
    case = f'case "$1" in root) echo {pyenv} ;; *) echo 3.12.9; echo 3.9.1 ;; esac'
    machine.script(machine.bin / "pyenv", f"#!/bin/sh\n{case}\n")
    machine.python(pyenv / "versions/3.9.1/bin/python", "3.9.1")
    newer = machine.python(pyenv / "versions/3.12.9/bin/python", "3.12.9")
    done = machine.set_up("test")
    assert f"Python 3.12.9 ({newer}) ->" in done.stdout
    assert "replacing .venv: it is unfinished" in done.stdout


def test_no_supported_interpreter_says_what_was_looked_at(machine):
    machine.python(machine.bin / "python3", "3.14.0")
    machine.script(machine.bin / "python", "#!/bin/sh\necho 2.7 is no CPython 3\nexit 1\n")
    done = machine.set_up("demo")
    assert done.returncode == 1
    assert "no supported Python found; this project needs" in done.stderr
    assert f"{machine.bin}/python3: Python 3.14.0" in done.stderr
    assert f"{machine.bin}/python: 2.7 is no CPython 3" in done.stderr
    assert "make demo PYTHON=/path/to/python3.12" in done.stderr
    assert not (machine.root / ".venv").exists()


def test_a_named_interpreter_must_work_and_be_supported(machine):
    machine.python(machine.bin / "python3.12", "3.12.4")
    for python, message in (
        ("/nowhere/python", "PYTHON=/nowhere/python does not work: "),
        (machine.python(machine.root / "own/python", "3.14.0"), "is Python 3.14.0; this project"),
    ):
        done = machine.set_up("test", python=python)
        assert done.returncode == 1
        assert message in done.stderr
        assert not (machine.root / ".venv").exists()
    older = machine.python(machine.root / "own/python", "3.11.0")
    assert f"Python 3.11.0 ({older}) ->" in machine.set_up("test", python=older).stdout


def test_an_unknown_set_up_and_a_foreign_environment_are_refused(machine):
    done = machine.set_up("tset")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "set-up: 'tset' is not a set-up; give demo or test\n"
    machine.python(machine.bin / "python3.12", "3.12.4")
    mine = machine.root / ".venv/mine"
    mine.parent.mkdir()
    mine.touch()
    done = machine.set_up("demo")
    assert done.returncode == 1
    assert "exists and was not made by this set-up, so it is left alone" in done.stderr
    assert mine.exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ((), ""),
        (("SEED=3", "DIGIT=5"), '--seed "3" --digit "5"'),
        (("ARGS=--steps 9",), "--steps 9"),
    ],
)
def test_make_demo_passes_its_flags_on(variables, flags):
    # Of the `make test` that runs this, and of its flags.
    outer = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS", "SEED", "DIGIT", "PYTHON")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "--no-print-directory", "-n", "demo", *variables]
    dry = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    set_up, demo = dry.stdout.splitlines()
    assert set_up.endswith("bash .ci/setup.sh demo")
    assert demo.split() == [".venv/bin/python", "-m", "experiments.demo", *flags.split()]
