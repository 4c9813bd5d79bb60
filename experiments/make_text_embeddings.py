"""What does a checkpoint's own text encoder say to these prompts? Makes the file that `models.text_embeddings` reads.

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

HunyuanVideo's template stands before every prompt; its tokens (95, says the pipeline) are cut off again.
Wan's and CogVideoX's text encoders run without torch, too: `models.t5`. On tiny random folders of both (diffusers
0.42.1, transformers 5.23.0, float32, values up to 4.5) its embeddings differ from this script's by 9.4e-6 at most.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        check(flags.folder, flags.out)
        arrays = embed(
            load_pipeline(flags.folder, dtype=flags.dtype, device=flags.device),
            PIPELINES[pipeline_name(flags.folder)],
            flags.prompt,
            negative_prompt=flags.negative_prompt,
            image=flags.image,
            max_length=flags.max_length or text_length(flags.folder),
        )
    except (ImportError, OSError, ValueError) as problem:
        parser.exit(1, f"{problem}\n")
    save(arrays, flags.out)
    for name, array in arrays.items():
        print(f"{name} {list(array.shape)}")


def check(folder: Path, out: Path) -> None:
    """ValueError or OSError for what would fail after the encoders were read."""
    name = pipeline_name(folder)
    if name not in PIPELINES:
        raise ValueError(f"{folder} holds a {name}; this script knows {', '.join(PIPELINES)}")
    if out.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{out} must end in .safetensors or .npz to say what kind of file it is")
    if out.exists():
        raise FileExistsError(f"{out} exists and is not overwritten; choose another name")


def pipeline_name(folder: Path) -> str:
    """diffusers' class of the pipeline in `folder`."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"no {index}; give a folder that holds a pipeline of diffusers")
    return json.loads(index.read_text(encoding="utf-8"))["_class_name"]


def text_length(folder: Path) -> int:
    """Text tokens that the pipeline's calls use."""
    family = PIPELINES[pipeline_name(folder)]
    config = folder / "transformer" / "config.json"
    if family == "cogvideox" and config.is_file():
        return json.loads(config.read_text(encoding="utf-8"))["max_text_seq_length"]
    return {"wan": 512, "cogvideox": 226, "hunyuan": 256}[family]


def load_pipeline(folder: Path, *, dtype: str, device: str | None) -> Any:
    """The pipeline without what makes pictures."""
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as problem:
        raise ImportError(
            f"{problem}. Text encoders run here in torch: pip install torch diffusers transformers "
            "accelerate safetensors sentencepiece ftfy, on any machine that holds the checkpoint; the "
            "file that this script makes is then read without them"
        ) from problem
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    pipeline = DiffusionPipeline.from_pretrained(
        folder,
        # The newest diffusers calls it dtype, and warns; older ones know only this.
        torch_dtype=getattr(torch, dtype),
        local_files_only=True,
        **{name: None for name in NOT_NEEDED if name in index},
    )
    return pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def embed(
    pipeline: Any,
    family: str,
    prompts: Sequence[str],
    *,
    negative_prompt: str | None,
    image: Path | None,
    max_length: int,
) -> dict[str, Any]:
    """Tensors by the names of `models.text_embeddings`.

    Raises:
      ValueError: an image for a pipeline that encodes none.
    """
    if image is not None and getattr(pipeline, "image_encoder", None) is None:
        raise ValueError(
            f"{type(pipeline).__name__} has no image encoder (of Wan's, those of 2.1's image to video "
            "have); leave --image out"
        )
    arrays = _encode(pipeline, family, list(prompts), max_length)
    if negative_prompt is not None:
        negative = _encode(pipeline, family, [negative_prompt] * len(prompts), max_length)
        arrays |= {f"negative_{name}": value for name, value in negative.items()}
    if image is not None:
        from PIL import Image

        with Image.open(image) as picture:
            states = pipeline.encode_image(picture.convert("RGB"))
        arrays["image_embeds"] = states[[0] * len(prompts)]
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


def save(arrays: dict[str, Any], out: Path) -> None:
    """Writes tensors in their dtypes; .npz has no bfloat16 and gets float32 for it. Masks as int32."""
    import torch

    tensors = {
        name: (tensor.int() if name.endswith("_mask") else tensor).detach().cpu().contiguous()
        for name, tensor in arrays.items()
    }
    if out.suffix == ".npz":
        import numpy as np

        np.savez(
            out,
            **{
                name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
                for name, tensor in tensors.items()
            },
        )
    else:
        from safetensors.torch import save_file

        save_file(tensors, out)


if __name__ == "__main__":
    main()
