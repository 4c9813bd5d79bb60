"""How every command with flags starts, and how it ends where flags, files or the machine do not do."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints


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
      arguments: those of the command line by default.
      description: for --help; the docstring of `config` by default.
      interrupted: what to say after Ctrl-C, such as where the run goes on.

    Raises:
      SystemExit: with one line and so with status 1; with 2 after tyro has shown which flags are wrong, which
        an older tyro leaves to the line.
    """
    import tyro

    try:
        given = _gathered(sys.argv[1:] if arguments is None else arguments, config)
        main(tyro.cli(config, args=given, description=description))
    except (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(interrupted)


def _gathered(arguments: Sequence[str], config: type) -> list[str]:
    """`arguments` with the values of a flag that takes any number of them, and stands there again, at its first place.

    tyro would take the last ones and drop the others without a word.
    """
    hints = get_type_hints(config)
    several = {
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(config)
        if get_args(hints[field.name])[-1:] == (...,)
    }
    groups: list[list[str]] = [[]]
    current, first = groups[0], {}
    for argument in arguments:
        if not argument.startswith("--"):
            current.append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        if name not in several:
            groups.append(current := [argument])
            continue
        if name not in first:
            groups.append(first.setdefault(name, [name]))
        current = first[name]
        current += [value] if equals else []
    return [argument for group in groups for argument in group]
