"""Plans what a LoRA file adds to which tensor of a checkpoint, and finds everything that is wrong with the file."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..keys import Rows
from .files import LoraFile
from .names import Names, Piece, other_part, refused_kind, take_apart

LAYOUTS = (
    "layouts that are read: names of diffusers, of PEFT, of kohya (lora_unet_...) and of the original, with "
    "lora_A/lora_B, lora_down/lora_up and alpha, or diff/diff_b/diff_m"
)
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True, eq=False)
class Delta:
    """What a file adds to one tensor: factor times (up[rows] @ down), or times a difference[rows].

    Attributes:
      file: that it comes from.
      target: the tensor of the checkpoint.
      tensors: of the file: (up, down), or one.
      rows: those of the first tensor that belong to the target.
      factor: includes the user's scale.
    """

    file: LoraFile
    target: str
    tensors: tuple[str, ...]
    rows: np.ndarray | slice
    factor: float

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """It in the checkpoint's layout, float32."""
        value = self.file.read(self.tensors[0])[self.rows]
        if len(self.tensors) == 2:
            down = self.file.read(self.tensors[1])
            rank = down.shape[0]
            value = value.reshape(-1, rank) @ down.reshape(rank, -1)
        return self.factor * value.reshape(shape)


def deltas_of(file: LoraFile, scale: float, names: Names) -> tuple[list[Delta], list[str]]:
    """What `file` adds to the tensors of a checkpoint, and lines for the user.

    Only the header is read, and the alphas.

    Raises:
      ValueError: anything that does not fit.
    """
    if not math.isfinite(scale):
        raise ValueError(f"{file.path}: its scale {scale} must be a finite number, such as 0.8")
    others = {name: part for name in file.shapes if (part := other_part(name))}
    own = [name for name in file.shapes if name not in others]
    modules, image = _modules(file, own, names)
    notes = _notes(file, others, image, modules)
    problems: list[str] = []
    deltas: list[Delta] = []
    for name, (rows, parts) in modules.items():
        try:
            deltas += _deltas(file, scale, name, rows, parts, names.shapes)
        except ValueError as problem:
            problems.append(f"{name}: {problem}")
    twice = collections.Counter((d.target, len(d.tensors)) for d in deltas)
    problems += [f"{name} is in it under two names" for (name, _), n in twice.items() if n > 1]
    if problems:
        raise ValueError(f"{file.path} does not fit this model: {_some(problems, '; ')}")
    return deltas, notes


def check_values(file: LoraFile, deltas: Sequence[Delta]) -> dict[Delta, float]:
    """Reads all that `deltas` of `file` need; ValueError if a number is, or would become, NaN or infinite.

    Returns:
      For each what no number in it exceeds.
    """
    needed = dict.fromkeys(name for delta in deltas for name in delta.tensors)
    peaks = {name: file.largest(name) for name in needed}
    bad = [name for name, peak in peaks.items() if not peak <= _LARGEST]
    bounds = {delta: _bound(delta, peaks) for delta in deltas}
    bad = bad or [d.tensors[0] for d, bound in bounds.items() if not bound <= _LARGEST]
    if bad:
        raise ValueError(
            f"{file.path} holds values that are NaN, infinite or too large for float32 in {len(bad)} of "
            f"{len(peaks)} tensors: {_some(bad)}; its training diverged or the file is damaged: take another"
        )
    return bounds


def _bound(delta: Delta, peaks: Mapping[str, float]) -> float:
    rank = delta.file.shapes[delta.tensors[1]][0] if len(delta.tensors) == 2 else 1
    return math.prod((abs(delta.factor), rank, *(peaks[name] for name in delta.tensors)))


def _modules(file: LoraFile, own: Sequence[str], names: Names):
    """{module: (rows, {part: tensor})}, and the tensors of an image branch that the model lacks."""
    pieces = [piece for name in own if (piece := take_apart(name))]
    _refuse_strangers(file, own, {piece.name for piece in pieces}, names)
    if len(adapters := {p.adapter for p in pieces if p.part in ("down", "up", "bias")}) > 1:
        raise ValueError(
            f"{file.path} holds {len(adapters)} adapters, {sorted(map(str, adapters))}; save one of them alone"
        )
    modules: dict[str, tuple[Rows, dict[str, str]]] = {}
    image, unknown = [], []
    for piece in pieces:
        if (found := _find(piece, names)) is None:
            (image if names.is_image_branch(piece.module) else unknown).append(piece)
            continue
        name, rows, part = found
        parts = modules.setdefault(name, (rows, {}))[1]
        if part in parts:
            raise ValueError(
                f"{file.path} holds {parts[part]} and {piece.name}, which are the same; remove one"
            )
        parts[part] = piece.name
    if unknown:
        listed = [_with_nearest(piece, names) for piece in unknown[:3]]
        raise ValueError(
            f"{file.path} does not fit this model: {len(unknown)} of its {len(file.shapes)} tensors are for modules "
            f"that it does not have, such as {', '.join(listed)}; {LAYOUTS}: take a LoRA of this very model"
        )
    return modules, image


def _find(piece: Piece, names: Names) -> tuple[str, Rows, str] | None:
    if piece.part != "diff_m":
        found = names.find(piece.module)
        return found and (*found, piece.part)
    # LightX2V writes "blocks.0.diff_m" for the table "blocks.0.modulation"
    for module in (f"{piece.module}.modulation", f"{piece.module}_modulation", piece.module):
        if found := names.find(module):
            return *found, "diff"
    return None


def _with_nearest(piece: Piece, names: Names) -> str:
    nearest = names.nearest(piece.module)
    return piece.name + (f" (the nearest module is {nearest})" if nearest else "")


def _refuse_strangers(file: LoraFile, own: Sequence[str], known: set[str], names: Names) -> None:
    """ValueError where a file holds what is no part of a LoRA that can be merged."""
    if not file.shapes:
        raise ValueError(f"{file.path} holds no tensors; take another file")
    strange = [name for name in own if name not in known]
    kinds = {kind: name for name in strange if (kind := refused_kind(name))}
    if kinds:
        kind, name = next(iter(kinds.items()))
        raise ValueError(
            f"{file.path} is {kind} ({name}), which is not merged here; {LAYOUTS}: convert it to a plain LoRA, or "
            "merge it into the checkpoint with the tool that made it"
        )
    if strange and not known and any(names.find(n.rpartition(".")[0]) for n in strange):
        raise ValueError(
            f"{file.path} is a whole checkpoint, not a LoRA: it holds weights such as {strange[0]}; pass its "
            "folder as the model, or take the LoRA's file"
        )
    if strange:
        raise ValueError(
            f"{file.path} holds {len(strange)} tensors that are no LoRA of a layer, such as "
            f"{_some(strange)}; {LAYOUTS}"
        )


def _notes(file: LoraFile, others, image, modules) -> list[str]:
    notes = []
    for part, count in sorted(collections.Counter(others.values()).items()):
        notes.append(
            f"{file.path}: {count} tensors for {part} are left out; only the transformer's are merged"
        )
    if image:
        notes.append(
            f"{file.path}: {len(image)} tensors are left out, for an image branch that this model does not have"
        )
    if not modules:
        raise ValueError(
            f"{file.path} holds nothing for this model: {'; '.join(notes)}; take a LoRA of this model"
        )
    peft = any(name.startswith("base_model.") for name in file.shapes)
    if peft and not file.settings.source and not any("alpha" in p for _, p in modules.values()):
        notes.append(
            f"{file.path}: has PEFT's names but no adapter_config.json beside it, so alpha is taken to be the rank"
        )
    return notes


def _deltas(
    file: LoraFile,
    scale: float,
    name: str,
    rows: Rows,
    parts: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterable[Delta]:
    """Those of one module; ValueError says what is wrong with it."""
    for part, tensor in parts.items():
        if not file.is_read(tensor, integers=part == "alpha"):
            raise ValueError(
                f"{tensor} is {file.dtypes[tensor]}, which is not read; take a LoRA that is not quantised"
            )
    given = {part: file.shapes[tensor] for part, tensor in parts.items()}
    deltas: list[Delta] = []

    def add(kind: str, shape: tuple[int, ...], factor: float, *tensors: str) -> None:
        """Shares `shape`, rows first, out among the targets' weights or biases."""
        targets = [_tensor(target, kind, shapes) for target in rows.targets]
        wanted = [shapes[target] for target in targets]
        if len({want[1:] for want in wanted}) > 1 or shape != (
            whole := (sum(want[0] for want in wanted), *wanted[0][1:])
        ):
            raise ValueError(f"{shape} is not the shape of its {kind}, {whole}")
        cuts = rows.cut([want[0] for want in wanted])
        alone = len(targets) == 1 and not rows.order
        for target, cut in zip(targets, cuts, strict=True):
            deltas.append(Delta(file, target, tensors, slice(None) if alone else cut, factor))

    if parts.keys() & {"down", "up", "bias", "alpha"}:
        if absent := {"down", "up"} - parts.keys():
            raise ValueError(f"its {' and '.join(sorted(absent))} projection is missing")
        whole = _whole(rows, shapes)
        up, down = given["up"], given["down"]
        if not _multiply(up, down, whole):
            raise ValueError(f"{up} x {down} does not give the weight's {whole}")
        rank = down[0]
        said = file.settings.rank_of(name)
        if said is not None and said != rank:
            raise ValueError(
                f"its rank is {rank}, but {file.settings.source} says {said}, so that is another file's"
            )
        divisor = rank**0.5 if file.settings.rslora else rank
        factor = scale * _alpha(file, name, parts, rank) / divisor
        add("weight", whole, factor, parts["up"], parts["down"])
        if "bias" in parts:
            add("bias", given["bias"], factor, parts["bias"])
    if "diff" in parts:
        add("weight", given["diff"], scale, parts["diff"])
    if "diff_b" in parts:
        add("bias", given["diff_b"], scale, parts["diff_b"])
    return deltas


def _tensor(target: str, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The checkpoint's name of a module's weight or bias; a table is its own weight."""
    if (name := f"{target}.{kind}") in shapes:
        return name
    if kind == "weight" and target in shapes:
        return target
    raise ValueError(f"the model's module has no {kind}")


def _whole(rows: Rows, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the weight that the original has of several, or one."""
    wanted = [shapes[_tensor(target, "weight", shapes)] for target in rows.targets]
    return (sum(want[0] for want in wanted), *wanted[0][1:])


def _multiply(up: tuple[int, ...], down: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether up x down gives a weight; a convolution's down may be flat, and sizes of 1 may follow."""
    if len(whole) < 2 or len(up) < 2 or len(down) < 2 or not down[0]:
        return False
    if up[0] != whole[0] or up[1] != down[0] or set(up[2:]) - {1}:
        return False
    flat = len(down) == 2 and down[1] == math.prod(whole[1:])
    return flat or _without_ones(down[1:]) == _without_ones(whole[1:])


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _alpha(file: LoraFile, name: str, parts: Mapping[str, str], rank: int) -> float:
    if "alpha" not in parts:
        return file.settings.alpha_of(name, rank)
    if math.prod(shape := file.shapes[parts["alpha"]]) != 1:
        raise ValueError(f"its alpha has shape {shape}, which must be one number")
    alpha = float(file.read(parts["alpha"]).reshape(()))
    if not math.isfinite(alpha):
        raise ValueError(f"its alpha is {alpha}, which must be a finite number")
    return alpha


def _some(items: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(items[:3])
    return shown if len(items) <= 3 else f"{shown}{separator}and {len(items) - 3} more"
