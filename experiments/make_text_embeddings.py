"""Runs a checkpoint's own text encoder on prompts and makes the file that `models.text_embeddings` reads.

For a machine with torch, diffusers and transformers; jax is not needed there. It runs diffusers' own pipeline up to
the embeddings, so cleaning, templates, lengths and padding are that pipeline's; transformer and VAE are not loaded.

    python -m experiments.make_text_embeddings Wan2.1-T2V-1.3B-Diffusers cat.safetensors \
        --prompt "A cat walks on the grass" --negative-prompt "blurred"

| pipeline | arrays (with --negative-prompt, the same with `negative_`) |
| --- | --- |
| Wan: UMT5-XXL | `prompt_embeds` [B, 512, 4096], zero behind the prompt; `prompt_attention_mask` |
| Wan 2.1 image to video | and with --image, CLIP ViT-H's last layer but one: `image_embeds` [B, 257, 1280] |
| CogVideoX: T5 v1.1-XXL | `prompt_embeds` [B, 226, 4096], padding encoded like text |
| HunyuanVideo: LLaMA 3 8B | `prompt_embeds` [B, 256, 4096], before its last two layers; `prompt_attention_mask` |
| and CLIP-L | `pooled_projections` [B, 768] |

An empty prompt is one, too. What can be wrong with flags and files is said before torch is imported, and OUT is there
whole or not at all. A picture is turned as its metadata say and stands on white where it is transparent.
HunyuanVideo's template stands before every prompt; its tokens (95, says the pipeline) are cut off again.
Wan's and CogVideoX's text encoders run without torch, too: `models.t5`. On tiny random folders of both (diffusers
0.42.1, transformers 5.23.0, float32, values up to 4.5) its embeddings differ from this script's by 9.4e-6 at most.
"""

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.encoder_files import check_parts, parts_of, read_object
from experiments.generation.image import check_image, open_image
from experiments.new_file import check_new, free_name, written_whole
from experiments.prompts import check_text

PIPELINES = {
    "WanPipeline": "wan",
    "WanVideoToVideoPipeline": "wan",
    "WanImageToVideoPipeline": "wan",
    "CogVideoXPipeline": "cogvideox",
    "CogVideoXImageToVideoPipeline": "cogvideox",
    "CogVideoXVideoToVideoPipeline": "cogvideox",
    "HunyuanVideoPipeline": "hunyuan",
}
NOT_NEEDED = ("transformer", "transformer_2", "vae")
INDEX = "model_index.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description="Embeddings of prompts, by a checkpoint's own text encoders (needs torch).",
    )
    parser.add_argument("folder", type=Path, help="pipeline in diffusers' layout")
    parser.add_argument("out", type=Path, help=".safetensors or .npz, not to be there yet")
    parser.add_argument("--prompt", action="append", required=True, help="may be given often")
    parser.add_argument("--negative-prompt", help="one for all prompts")
    parser.add_argument("--image", type=Path, help="first frame, for Wan image to video")
    parser.add_argument("--max-length", type=int, help="text tokens; left out, the pipeline's")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--device", help="cuda, cpu, ...; left out, cuda if there is one")
    flags = parser.parse_args(argv)
    try:
        check_out(flags.out)
        family = check_folder(flags.folder)
        check_text([*flags.prompt, flags.negative_prompt or ""])
        max_length = check_length(flags.folder, flags.max_length)
        check_first_frame(flags.folder, flags.image)
        check_packages(family, flags.out)
        arrays = embed(
            load_pipeline(flags.folder, dtype=flags.dtype, device=flags.device),
            family,
            flags.prompt,
            negative_prompt=flags.negative_prompt,
            image=flags.image,
            max_length=max_length,
        )
        check_finite(arrays, flags.dtype)
        out = save(arrays, flags.out)
    except (ImportError, OSError, ValueError) as problem:
        parser.exit(1, f"error: {' '.join(str(problem).split())}\n")
    for name, array in arrays.items():
        print(f"{name} {list(array.shape)}")
    print(f"wrote {out}")


def check_out(out: Path) -> None:
    """ValueError or OSError unless `out` can be written and is not there."""
    if out.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{out} must end in .safetensors or .npz to say what kind of file it is")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists and is not overwritten; choose another name")
    check_new(out)


def check_folder(folder: Path) -> str:
    """The family of the pipeline in `folder`.

    Raises:
      FileNotFoundError: a file of its encoders or tokenizers is missing.
      ValueError: another pipeline, or a file that is not whole.
    """
    name = pipeline_name(folder)
    if name not in PIPELINES:
        raise ValueError(f"{folder} holds a {name}; this script knows {', '.join(PIPELINES)}")
    check_parts(folder, parts_of(read_object(folder / INDEX), without=NOT_NEEDED))
    return PIPELINES[name]


def check_length(folder: Path, asked: int | None) -> int:
    """Text tokens: those that the transformer takes.

    Raises:
      ValueError: `asked` is another number.
    """
    family, length = PIPELINES[pipeline_name(folder)], text_length(folder)
    if asked is None or asked == length:
        return length
    if family == "hunyuan":
        if asked < 1:
            raise ValueError(f"max-length={asked} must be at least 1; {length} is usual")
        return asked
    padding = {
        "wan": "shorter prompts get zeros behind them, as would the rows of embeddings made elsewhere at another "
        "length: np.pad(x, ((0, 0), (0, 512 - x.shape[1]), (0, 0)))",
        "cogvideox": "shorter prompts are padded before they are encoded, so that rows cannot be added later",
    }[family]
    raise ValueError(
        f"max-length={asked} must be {length} for {folder}: {padding}; leave --max-length out"
    )


def check_first_frame(folder: Path, image: Path | None) -> None:
    """Refuses a picture that cannot be read or that no encoder takes, and that none is given where one does.

    Raises:
      ValueError, FileNotFoundError: as said.
    """
    encodes = "image_encoder" in parts_of(read_object(folder / INDEX), without=NOT_NEEDED)
    if image is not None and not encodes:
        raise ValueError(
            f"{folder} has no image encoder (of Wan's, those of 2.1's image to video have); leave --image out"
        )
    if encodes and image is None:
        raise ValueError(f"{folder} encodes its first frame beside the prompt; give it, --image")
    if image is not None:
        check_image(image)


def check_packages(family: str, out: Path) -> None:
    """ImportError that names every package that is missing."""
    needed = ["torch", "diffusers", "transformers", "accelerate"]
    needed += ["ftfy"] if family == "wan" else []
    needed += ["safetensors"] if out.suffix == ".safetensors" else []
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"No module named {', '.join(map(repr, missing))}. Text encoders run here in torch: pip install "
            "torch diffusers transformers accelerate safetensors sentencepiece ftfy, on any machine that holds the "
            "checkpoint; the file that this script makes is then read without them"
        )


def pipeline_name(folder: Path) -> str:
    """diffusers' class of the pipeline in `folder`."""
    index = folder / INDEX
    if not os.path.lexists(index):
        raise FileNotFoundError(f"no {index}; give a folder that holds a pipeline of diffusers")
    name = read_object(index).get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"{index} must name a pipeline in _class_name; download it again")
    return name


def text_length(folder: Path) -> int:
    """Text tokens that the pipeline's calls use."""
    family = PIPELINES[pipeline_name(folder)]
    config = folder / "transformer" / "config.json"
    if family != "cogvideox" or not config.is_file():
        return {"wan": 512, "cogvideox": 226, "hunyuan": 256}[family]
    length = read_object(config).get("max_text_seq_length", 226)
    if type(length) is not int or length < 1:
        raise ValueError(f"max_text_seq_length={length!r} in {config} must be a number of tokens")
    return length


def load_pipeline(folder: Path, *, dtype: str, device: str | None) -> Any:
    """The pipeline without what makes pictures.

    Raises:
      ValueError: no such device.
    """
    import torch
    from diffusers import DiffusionPipeline

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as problem:  # the second where torch has no CUDA
        raise ValueError(
            f"device={device} cannot be used ({problem}); try --device cpu"
        ) from problem
    index = read_object(folder / INDEX)
    pipeline = DiffusionPipeline.from_pretrained(
        folder,
        # The newest diffusers calls it dtype, and warns; older ones know only this.
        torch_dtype=getattr(torch, dtype),
        local_files_only=True,
        **{name: None for name in NOT_NEEDED if name in index},
    )
    return pipeline.to(place)


def embed(
    pipeline: Any,
    family: str,
    prompts: Sequence[str],
    *,
    negative_prompt: str | None,
    image: Path | None,
    max_length: int,
) -> dict[str, Any]:
    """Tensors by the names of `models.text_embeddings`. The image is upright and in RGB; CLIP's processor crops it."""
    arrays = _encode(pipeline, family, list(prompts), max_length)
    if negative_prompt is not None:
        negative = _encode(pipeline, family, [negative_prompt] * len(prompts), max_length)
        arrays |= {f"negative_{name}": value for name, value in negative.items()}
    if image is not None:
        arrays["image_embeds"] = pipeline.encode_image(open_image(image))[[0] * len(prompts)]
    return arrays


def _encode(pipeline, family: str, prompts: list[str], max_length: int) -> dict[str, Any]:
    if family == "hunyuan":
        embeds, pooled, mask = pipeline.encode_prompt(prompts, max_sequence_length=max_length)
        return {
            "prompt_embeds": embeds,
            "prompt_attention_mask": mask,
            "pooled_projections": pooled,
        }
    embeds, _ = pipeline.encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=max_length
    )
    if family == "cogvideox":
        return {"prompt_embeds": embeds}
    # The pipeline keeps no mask: it has zeroed what it hides, and no state of a token is zero.
    return {"prompt_embeds": embeds, "prompt_attention_mask": (embeds != 0).any(-1)}


def check_finite(arrays: dict[str, Any], dtype: str) -> None:
    """ValueError where an encoder overflowed."""
    for name, array in arrays.items():
        if not name.endswith("_mask") and bool((array - array != 0).any()):
            raise ValueError(
                f"{name} has values that are not finite, after encoding in {dtype}; use --dtype "
                f"{'float32' if dtype == 'bfloat16' else 'bfloat16'}"
            )


def save(arrays: dict[str, Any], out: Path) -> Path:
    """Writes tensors in their dtypes; .npz has no bfloat16 and gets float32 for it. Masks as int32.

    Returns:
      Where: `out`, or NAME-2 beside it where `out` has come to exist since it was checked.
    """
    out = free_name(out)
    tensors = {
        name: (tensor.int() if name.endswith("_mask") else tensor).detach().cpu().contiguous()
        for name, tensor in arrays.items()
    }
    with written_whole(out) as part:
        if out.suffix == ".npz":
            import numpy as np

            numbers = {
                name: (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
                for name, tensor in tensors.items()
            }
            with open(part, "wb") as file:  # a name would get .npz behind it
                np.savez(file, **numbers)
        else:
            from safetensors.torch import save_file

            save_file(tensors, part)
    return out


if __name__ == "__main__":
    main()
