"""Choice of an implementation: by name, or the first in order that can take the call."""

from collections.abc import Callable, Mapping
from typing import Any

Implementation = Callable[..., Any]


def call(
    op: str,
    implementations: Mapping[str, Implementation],
    implementation: str | None,
    *args: Any,
    default: tuple[str, ...],
    **kwargs: Any,
) -> Any:
    """Calls the implementation named, or the first of `default` that accepts the arguments.

    An implementation refuses a call it cannot serve on this device or at these shapes with
    NotImplementedError, before it does any work. One asked for by name never falls back.

    Raises:
      ValueError: the name is unknown.
      ExceptionGroup: every implementation of the default order refused; holds all reasons.
    """
    if implementation is not None:
        if implementation not in implementations:
            raise ValueError(
                f"{implementation=} is not an implementation of {op}; choose one of "
                f"{', '.join(implementations)}, or None for the default order"
            )
        return implementations[implementation](*args, **kwargs)
    refusals = []
    for name in default:
        try:
            return implementations[name](*args, **kwargs)
        except NotImplementedError as reason:
            refusals.append(reason)
    raise ExceptionGroup(f"no implementation of {op} takes this call", refusals)
