"""Starts every command that has flags, and ends it with one line where flags, files or the machine are wrong."""

import dataclasses
import inspect
import os
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
        given = _at_home(sys.argv[1:] if arguments is None else arguments, config)
        given = _gathered(given, config)
        text = description or inspect.cleandoc(config.__doc__ or "").partition("\n")[0]
        flags = tyro.cli(_grouped(config), prog=_called(), args=given, description=text)
        main(_flat(config, flags))
    except (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(interrupted)


def _called() -> str | None:
    """How a user calls the present command: "python -m experiments.NAME"; None where it runs in another way."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec and f"python -m {spec.name.removesuffix('.__main__')}"


def _grouped(config: type) -> type:
    """`config`, or a dataclass of the groups of its flags that it lists in `GROUPS`, which --help then shows apart.

    `GROUPS` gives each group a word and the names of its fields; fields that it leaves out are of the group "other".
    A field that is a dataclass is a group of its own, with the field's name before its flags.
    """
    groups: dict[str, tuple[str, ...]] = getattr(config, "GROUPS", {})
    if not groups:
        return config
    import tyro

    hints = get_type_hints(config, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(config)}
    nested = [name for name in fields if dataclasses.is_dataclass(hints[name])]
    rest = tuple(fields.keys() - {name for names in groups.values() for name in names} - {*nested})
    kinds: list[tuple[str, Any, Any]] = []
    for group, names in ({**groups, "other": rest} if rest else groups).items():
        own = [(name, hints[name], _same(fields[name])) for name in names]
        # The docstring is the whole config's, in which tyro finds each flag's help.
        attributes = (
            f"Attributes:{inspect.cleandoc(config.__doc__ or '').partition('Attributes:')[2]}"
        )
        kind = dataclasses.make_dataclass(
            group, own, kw_only=True, namespace={"__doc__": f"\n\n{attributes}"}
        )
        needed = any(_is_required(fields[name]) for name in names)
        default = dataclasses.field() if needed else dataclasses.field(default_factory=kind)
        kinds.append((group, tyro.conf.OmitArgPrefixes[kind], default))
    kinds += [(name, hints[name], _same(fields[name])) for name in nested]
    return dataclasses.make_dataclass(config.__name__, kinds, kw_only=True)


def _flat(config: type, given: Any) -> Any:
    """The `config` that the groups of its flags make."""
    if isinstance(given, config):
        return given
    own = {field.name for field in dataclasses.fields(config)}
    values = {}
    for group in dataclasses.fields(given):
        value = getattr(given, group.name)
        nested = group.name in own  # a dataclass that `config` has itself
        values |= {group.name: value} if nested else vars(value)
    return config(**values)


def _at_home(arguments: Sequence[str], config: type) -> list[str]:
    """`arguments` with the home folder for ~ in the values of paths: the shell leaves it in quotes and behind =."""
    kinds = {
        f"--{name.replace('_', '-')}": str(kind) for name, kind in get_type_hints(config).items()
    }
    found, is_path = [], False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            is_path = "Path" in kinds.get(name.replace("_", "-"), "")
            if is_path and equals:
                argument = f"{name}={os.path.expanduser(value)}"
        elif is_path:
            argument = os.path.expanduser(argument)
        found.append(argument)
    return found


def _same(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory)
    return dataclasses.field(default=field.default)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _gathered(arguments: Sequence[str], config: type) -> list[str]:
    """`arguments` with all values of a repeated flag that takes any number of them at its first place.

    tyro would take the last ones and silently drop the others.
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
