"""Checkpoint folders for tests: the toy's, and those of the tiny models of diffusers and transformers."""

import json

from safetensors.numpy import load_file, save_file

from models import pretrained
from models.t5 import T5Encoder

from . import parity

FILE = "diffusion_pytorch_model.safetensors"


def rewrite(folder, change):
    path = folder / "transformer" / FILE
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, str(path), metadata={"format": "pt"})


def part_of(document):
    """(part of a pipeline, stem of its weights) that a config.json is of."""
    if "architectures" in document:
        return "text_encoder", "model"
    name = document["_class_name"]
    return ("vae" if name in pretrained.VAES else "transformer"), "diffusion_pytorch_model"


def parity_folder(path, name, dtype=None):
    """A tiny model of diffusers or transformers in a folder, as its `save_pretrained` writes it."""
    document = parity.config(name)
    if "_class" in document:  # an encoder, whose configuration is not as transformers writes it
        document = {"architectures": [document.pop("_class")], **document}
    _, stem = part_of(document)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(document))
    tensors = load_file(parity.FOLDER / f"{name}.safetensors")
    for alias, stored in T5Encoder.ALIASES.items():  # one tensor under two names is written once
        if stored in tensors:
            tensors.pop(alias, None)
    if dtype is not None:
        tensors = {name: array.astype(dtype) for name, array in tensors.items()}
    save_file(tensors, str(path / f"{stem}.safetensors"), metadata={"format": "pt"})
    return document
