"""How every command with flags starts, and how it ends where flags, files or the machine do not do."""

import dataclasses
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any


def run(
    main: Callable[[Any], Any],
    config: type,
    *,
    arguments: Sequence[str] | None = None,
    description: str | None = None,
    interrupted: str = "interrupted",
) -> None:
    """Calls `main` with the `config` that the flags make; what is wrong is said without a traceback.

    Args:
      main: the command; raises ValueError, OSError, ImportError, NotImplementedError or FloatingPointError with value,
        rule and remedy.
      config: dataclass of the flags, which checks them when it is made.
      arguments: those of the command line by default. A flag of several values may be given several times.
      description: for --help; the docstring of `config` by default.
      interrupted: what to say after Ctrl-C, such as where the run goes on.

    Raises:
      SystemExit: with one line and so with status 1; with 2 after tyro has shown which flags are wrong, which
        an older tyro leaves to the line.
    """
    import tyro

    try:
        given = joined(sys.argv[1:] if arguments is None else arguments, config)
        main(tyro.cli(config, args=given, description=description))
    except (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(interrupted)


def joined(arguments: Sequence[str], config: type) -> list[str]:
    """`--x a --x b` as `--x a b` where `x` takes any number of values: tyro would keep the last one without a word."""
    several = {f.name for f in dataclasses.fields(config) if ... in typing.get_args(f.type)}
    flags: list[list[str]] = [[]]
    first: dict[str, list[str]] = {}
    current = flags[0]
    for word in arguments:
        head, equals, value = word.partition("=")
        name = head.removeprefix("--").replace("-", "_")
        if not word.startswith("--"):
            current.append(word)
        elif name in several:
            if name not in first:
                first[name] = [head]
                flags.append(first[name])
            current = first[name]
            current += [value] if equals else []
        else:
            current = [word]
            flags.append(current)
    return [word for flag in flags for word in flag]
