"""Names and layouts: from a module's parameters to the tensors of a torch checkpoint, and back.

A module tree has the names of the original's, so most names are the same. A `KeyTable` lists the others.
Layouts follow from what a parameter is: a `kernel` of a Linear [in, out] or of a convolution
[axes..., in, out] is torch's `weight` [out, in, axes...]; a `scale` or an `embedding` is its `weight`;
everything else is stored as it is.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import nnx

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


class KeyTable:
    """Where names differ: {our module path: theirs}, parts joined by dots, "*" for an index.

    The longest path that starts a parameter's path is replaced; the rest is kept.
    """

    def __init__(self, renames: Mapping[str, str] = {}):
        self._renames = sorted(
            ((tuple(ours.split(".")), theirs.split(".")) for ours, theirs in renames.items()),
            key=lambda pair: -len(pair[0]),
        )

    def theirs(self, path: Sequence[object]) -> str:
        """Name in a checkpoint of the parameter at `path`."""
        *parts, leaf = (str(part) for part in path)
        for ours, theirs in self._renames:
            head = parts[: len(ours)]
            if len(head) == len(ours) and all(
                want == part or (want == "*" and part.isdigit())
                for want, part in zip(ours, head, strict=True)
            ):
                indices = iter([part for want, part in zip(ours, head, strict=True) if want == "*"])
                new = [next(indices) if part == "*" else part for part in theirs]
                parts = new + parts[len(ours) :]
                break
        return ".".join([*parts, _LEAVES.get(leaf, leaf)])


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where the rows of a tensor of the original went when its checkpoint was converted to diffusers' layout.

    Attributes:
      targets: modules of the converted checkpoint; "*" is the layer's index. The original holds their rows one after
        the other.
      order: unless empty, the original is first cut into so many equal parts, which are put in this order.
    """

    targets: tuple[str, ...]
    order: tuple[int, ...] = ()

    def cut(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """The rows of the original that each target has, of targets with `sizes` rows."""
        rows = np.arange(sum(sizes))
        if self.order:
            parts = np.split(rows, len(self.order))
            rows = np.concatenate([parts[i] for i in self.order])
        return np.split(rows, np.cumsum(sizes)[:-1])


def original_names(names: Iterable[str], table: Mapping[str, str]) -> dict[str, str]:
    """{name in the original's layout: name in the converted checkpoint} of those that the table has.

    Args:
      names: of tensors.
      table: modules and tables of the original and of the checkpoint, "*" for a block's index (the second part).
    """
    found = {}
    for name in names:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            head = parts[:end]
            starred = ".".join(["*" if i == 1 and p.isdigit() else p for i, p in enumerate(head)])
            theirs = table.get(starred, table.get(".".join(head)))
            if theirs is not None:
                index = parts[1] if len(parts) > 1 else ""
                found[name] = ".".join([theirs.replace("*", index), *parts[end:]])
                break
    return found


@dataclasses.dataclass(frozen=True)
class Slot:
    """One parameter and how its tensor is laid out in a checkpoint."""

    parameter: nnx.Param
    is_kernel: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the checkpoint."""
        shape = tuple(self.parameter.shape)
        return (*shape[:-3:-1], *shape[:-2]) if self.is_kernel else shape

    def from_checkpoint(self, tensor: np.ndarray) -> np.ndarray:
        """The checkpoint's tensor in our layout (a view)."""
        if not self.is_kernel:
            return tensor
        return tensor.transpose(*range(2, tensor.ndim), 1, 0)

    def to_checkpoint(self, array: np.ndarray) -> np.ndarray:
        """Our array in the checkpoint's layout, contiguous."""
        if self.is_kernel:
            n = array.ndim
            array = array.transpose(n - 1, n - 2, *range(n - 2))
        return np.ascontiguousarray(array)


def checkpoint_slots(module: nnx.Module, table: KeyTable | None) -> dict[str, Slot]:
    """Every parameter of `module` by its name in a checkpoint.

    Args:
      table: where names differ in a torch checkpoint; None: a file with our own names and layouts, such as
        "blocks.0.up.kernel" (the Tiny model's), but for the parts that the module's `FILE_NAMES` replaces.
    """
    slots = {}
    for path, parameter in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        if table is None:
            name = ".".join(map(str, path))
            for ours, stored in getattr(module, "FILE_NAMES", {}).items():
                name = name.replace(ours, stored)
            slots[name] = Slot(parameter, is_kernel=False)
            continue
        name = table.theirs(path)
        if name in slots:
            raise ValueError(f"two parameters are called {name} in the checkpoint; mend the table")
        slots[name] = Slot(parameter, path[-1] == "kernel")
    return slots


def check_fit(
    source: Path, slots: Mapping[str, Slot], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError, with all differences, unless the tensors of a folder or file fit a model's slots."""
    present = shapes.keys()
    problems = [f"missing: {name}" for name in sorted(slots.keys() - present)]
    problems += [f"unexpected: {name}" for name in sorted(present - slots.keys())]
    problems += [
        f"{name}: the file has {shapes[name]}, the model needs {slots[name].shape}"
        for name in sorted(slots.keys() & present)
        if shapes[name] != slots[name].shape
    ]
    if problems:
        kind = ""
        if not slots.keys() & present and present:
            kind = " (no name fits: this is the original authors' layout or another model; take diffusers')"
        more = f"; and {len(problems) - 200} more" if len(problems) > 200 else ""
        raise ValueError(
            f"the weights in {source} do not fit its configuration{kind}; take both from one checkpoint: "
            f"{'; '.join(problems[:200])}{more}"
        )
