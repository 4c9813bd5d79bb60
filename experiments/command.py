"""How every command with flags starts, and how it ends where flags, files or the machine do not do."""

import sys
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
      arguments: those of the command line by default.
      description: for --help; the docstring of `config` by default.
      interrupted: what to say after Ctrl-C, such as where the run goes on.

    Raises:
      SystemExit: with one line and so with status 1; with 2 after tyro has shown which flags are wrong, which
        an older tyro leaves to the line.
    """
    import tyro

    try:
        main(tyro.cli(config, args=arguments, description=description))
    except (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(interrupted)
