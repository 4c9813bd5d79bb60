"""Every command ends with one line and a status other than 0 where it cannot do what it was asked."""

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from experiments import command

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Config:
    """Flags of a toy."""

    size: int = 1

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1")


def last_line(main, config, *arguments, **options) -> str:
    """What a command says when it gives up; it must be one line, which makes the status 1."""
    with pytest.raises(SystemExit) as stop:
        command.run(main, config, arguments=arguments, **options)
    assert isinstance(stop.value.code, str)
    assert len(stop.value.code.splitlines()) == 1
    return stop.value.code


def check(code, printed, message) -> None:
    """The message is the whole line, status 1, or stands in tyro's box for flags that a config refuses, status 2."""
    said = code if isinstance(code, str) else re.sub(r"[\s│]+", " ", printed.err)
    assert message in said
    assert "Traceback" not in said
    assert len(code.splitlines()) == 1 if isinstance(code, str) else code == 2


def test_flags_reach_the_command():
    seen = []
    command.run(seen.append, Config, arguments=["--size", "3"])
    assert seen == [Config(3)]


@dataclasses.dataclass(frozen=True)
class Many:
    """Flags of which some take several values."""

    name: tuple[str, ...] = ("x",)
    in_order: tuple[int, ...] = ()
    size: tuple[int, int] = (1, 1)
    seed: int = 0


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ("", Many()),
        ("--name a b --seed 2", Many(("a", "b"), seed=2)),
        ("--name a --seed 2 --name b c", Many(("a", "b", "c"), seed=2)),
        (
            "--in-order 3 --name=a --in_order -4 --size 2 3 --name b",
            Many(("a", "b"), (3, -4), (2, 3)),
        ),
        ("--seed 1 --seed 2", Many(seed=2)),
    ],
)
def test_a_flag_of_several_values_may_stand_several_times(arguments, config):
    seen = []
    command.run(seen.append, Many, arguments=arguments.split())
    assert seen == [config]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InGroups:
    """Flags in groups.

    Attributes:
      model: a folder.
      size: of it.
      names: some.
      left: out of all groups.
    """

    GROUPS: ClassVar = {"input": ("model", "names"), "shape": ("size",)}
    model: str
    size: int = 1
    names: tuple[str, ...] = ()
    left: list[int] = dataclasses.field(default_factory=lambda: [1])

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1")


def test_flags_in_groups_keep_their_names_and_have_their_help(capsys):
    seen = []
    arguments = ["--names", "a", "b", "--model", "m", "--size", "3", "--names", "c"]
    command.run(seen.append, InGroups, arguments=arguments)
    assert seen == [InGroups(model="m", size=3, names=("a", "b", "c"))]
    with pytest.raises(SystemExit):
        command.run(print, InGroups, arguments=["--help"])
    said = re.sub(r"[\s│╭╮╯╰─]+", " ", capsys.readouterr().out)
    said = said[said.index("Flags in groups.") :]  # behind the usage
    parts = ["Flags in groups.", "input options", "--model STR a folder. (required)", "--names",
             "shape options", "--size INT of it. (default: 1)", "other options", "--left"]  # fmt: skip
    assert [said.index(part) for part in parts] == sorted(said.index(part) for part in parts)
    assert last_line(print, InGroups, "--model", "m", "--size", "0").endswith("must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of two terms.

    Attributes:
      size: of the first.
      other: of the second.
    """

    size: float = 1.0
    other: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithWeights:
    """Flags of which one is a dataclass.

    Attributes:
      size: of it.
      loss: weights.
    """

    GROUPS: ClassVar = {"shape": ("size",)}
    size: int = 1
    loss: Weights = dataclasses.field(default_factory=Weights)


def test_a_flag_that_is_a_dataclass_is_a_group_with_its_name_before_its_flags(capsys):
    seen = []
    command.run(seen.append, WithWeights, arguments=["--loss.size", "3", "--size", "2"])
    assert seen == [WithWeights(size=2, loss=Weights(size=3.0))]
    with pytest.raises(SystemExit):
        command.run(print, WithWeights, arguments=["--help"])
    said = capsys.readouterr().out
    assert "shape options" in said
    assert "loss options" in said


def test_help_names_the_command_as_a_user_calls_it():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.readme_tables", "--help"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage: python -m experiments.readme_tables "), done.stdout


@pytest.mark.parametrize(
    "name",
    ["generate", "search.__main__", "finetune_sta.__main__", "train_tiny", "quality.__main__", "measure_costs"],
)  # fmt: skip
def test_every_flag_of_the_long_commands_has_a_group_and_help(name):
    module = importlib.import_module(f"experiments.{name}")
    config = module.Config
    fields = sorted(field.name for field in dataclasses.fields(config))
    nested = [f.name for f in dataclasses.fields(config) if dataclasses.is_dataclass(f.type)]
    grouped = [name for names in config.GROUPS.values() for name in names]
    assert sorted(grouped + nested) == fields
    documented = re.findall(r"^  (\w+): ", inspect.cleandoc(config.__doc__), re.MULTILINE)
    assert sorted(documented) == fields
    assert max(map(len, config.GROUPS.values())) <= 10


@dataclasses.dataclass(frozen=True)
class Paths:
    """Flags of which some are paths."""

    out: Path | None = None
    lora: tuple[str | Path, ...] = ()
    prompt: str = ""


def test_the_home_folder_is_meant_by_its_sign_in_paths_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere")
    seen = []
    arguments = ["--out=~/a b.mp4", "--lora", "~/x:0.5", "y", "--prompt", "~/", "--lora", "~/z"]
    command.run(seen.append, Paths, arguments=arguments)
    loras = ("/elsewhere/x:0.5", "y", "/elsewhere/z")
    assert seen == [Paths(Path("/elsewhere/a b.mp4"), loras, "~/")]


@pytest.mark.parametrize(
    "kind",
    [ValueError, OSError, FileNotFoundError, NotImplementedError, ImportError, FloatingPointError],
)
def test_a_refusal_is_one_line(kind):
    def main(config):
        raise kind(f"no room for {config.size}")

    assert last_line(main, Config) == "error: no room for 1"


def test_a_flag_that_its_config_refuses_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        command.run(print, Config, arguments=["--size", "0"])
    check(stop.value.code, capsys.readouterr(), "size=0 must be at least 1")


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        command.run(lambda config: {}[config], Config, arguments=[])


def test_an_interrupt_is_one_line():
    def main(config):
        raise KeyboardInterrupt

    assert last_line(main, Config) == "interrupted"
    assert last_line(main, Config, interrupted="it goes on from step 3") == "it goes on from step 3"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("demo.__main__", "--digit 11", "digit=11 must be one of 0 to 9"),
        ("demo.__main__", "--only stars", "only=['stars'] names no method; choose from ['sta', "),
        (
            "demo.__main__",
            "--out TMP/new --weights TMP/none --dtype float32",
            "no weights at TMP/none; give",
        ),
        ("bench_cpu", "--repeats 3", "repeats=3 must be at least 7"),
        ("bench_cpu", "--block 0", "block=0 must be at least 1"),
        ("train_tiny", "--save-every 0", "save_every=0 must be at least 1"),
        ("train_tiny", "--out TMP/run --init TMP/none", "no weights at TMP/none; give"),
        ("quality.__main__", "--steps 3", "steps=3 must be at least 5"),
        ("search.__main__", "--method mixture", "a mixture needs its budget: pass --density"),
        ("report.__main__", "--folder TMP/none", "for --folder; give one that holds results/"),
        ("generate", "--model TMP/none --prompt x", "no folder TMP/none"),
        (
            "generate",
            "--model TMP/none --prompt x --seed 1 --seed 1",
            "seed=(1, 1) names one twice",
        ),
        ("parity", "--only x", "only=['x'] names no model; choose from"),
        ("full_size.__main__", "--only x", "only=['x'] are no cases; choose from"),
    ],
)
def test_bad_input_is_named(name, flags, message, tmp_path, capsys):
    module = importlib.import_module(f"experiments.{name}")
    arguments = flags.replace("TMP", str(tmp_path)).split()
    with pytest.raises(SystemExit) as stop:
        command.run(module.main, module.Config, arguments=arguments)
    check(stop.value.code, capsys.readouterr(), message.replace("TMP", str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_tables_without_their_records_are_named(tmp_path, monkeypatch):
    from experiments import readme_tables

    (tmp_path / "README.md").write_text("no tables")
    monkeypatch.setattr(readme_tables, "TABLES", {tmp_path / "README.md": {"demo": lambda: ""}})
    said = last_line(readme_tables.main, readme_tables.Config)
    assert "README.md has no <!-- demo -->" in said


def test_commands_start_in_no_other_way():
    own = {"command.py"}
    files = (ROOT / "experiments").rglob("*.py")
    assert {path.name for path in files if "tyro.cli(" in path.read_text("utf-8")} == own
