"""Tiny checkpoint folders in the real layout, with random weights: every part is there, from tokenizer to VAE."""

import json
from pathlib import Path

from models import save_text_encoder, save_transformer, save_vae
from models.cogvideox import CogVideoXConfig, CogVideoXTransformer
from models.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from models.config import config_to_json
from models.hunyuan_video import HunyuanVideoConfig, HunyuanVideoTransformer
from models.hunyuan_video_vae import HunyuanVideoVAE, HunyuanVideoVAEConfig
from models.schedulers import (
    CogVideoXDPMScheduler,
    CogVideoXSchedulerConfig,
    FlowMatchEulerDiscreteConfig,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepConfig,
    UniPCMultistepScheduler,
    save_scheduler,
)
from models.t5 import T5Config, T5Encoder
from models.tokenizer import train_tokenizer
from models.wan import WanConfig, WanTransformer
from models.wan_vae import WanVAE, WanVAEConfig

from ...models.random_weights import random_model

SENTENCES = ("a cat rides a skateboard", "two dogs watch the rain", "the camera moves slowly")
TEXT_DIM = 24


def wan(folder: Path, *, image: bool = False, weights: bool = True) -> Path:
    """Wan 2.1 text to video, or image to video; without weights it has all that refusals look at before them."""
    config = WanConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        ffn_dim=48,
        num_layers=2,
        text_dim=TEXT_DIM,
        freq_dim=32,
        in_channels=36 if image else 16,
        image_dim=20 if image else None,
        added_kv_proj_dim=32 if image else None,
    )
    vae = WanVAEConfig(base_dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1)
    if weights:
        save_transformer(random_model(WanTransformer, config, seed=1), folder / "transformer")
        save_vae(random_model(WanVAE, vae, seed=2), folder / "vae")
    else:
        write_json(
            folder / "transformer" / "config.json", config_to_json(config, "WanTransformer3DModel")
        )
        write_json(folder / "vae" / "config.json", config_to_json(vae, "AutoencoderKLWan"))
    flow = UniPCMultistepConfig(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    save_scheduler(UniPCMultistepScheduler(flow), folder / "scheduler")
    text_parts(folder, "umt5", weights=weights)
    name = "WanImageToVideoPipeline" if image else "WanPipeline"
    index(folder, name, "WanTransformer3DModel", "AutoencoderKLWan", "UMT5EncoderModel")
    return folder


def hunyuan_video(folder: Path) -> Path:
    """HunyuanVideo, without its text encoders."""
    config = HunyuanVideoConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=12,
        rope_axes_dim=(4, 6, 6),
    )
    save_transformer(random_model(HunyuanVideoTransformer, config, seed=1), folder / "transformer")
    vae = HunyuanVideoVAEConfig(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    )
    save_vae(random_model(HunyuanVideoVAE, vae, seed=2), folder / "vae")
    flow = FlowMatchEulerDiscreteConfig(shift=7.0)
    save_scheduler(FlowMatchEulerDiscreteScheduler(flow), folder / "scheduler")
    index(
        folder,
        "HunyuanVideoPipeline",
        "HunyuanVideoTransformer3DModel",
        "AutoencoderKLHunyuanVideo",
        "LlamaModel",
    )
    return folder


def cogvideox(folder: Path, *, version: str = "1.0", image: bool = False) -> Path:
    """CogVideoX 1.0 or 1.5 with rotary positions, text or image to video, and DPM."""
    is_new = version == "1.5"
    config = CogVideoXConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=32 if image else 16,
        time_embed_dim=16,
        text_embed_dim=TEXT_DIM,
        num_layers=1,
        sample_width=12,
        sample_height=8,
        sample_frames=9,
        patch_size_t=2 if is_new else None,
        patch_bias=not is_new,
        max_text_seq_length=9,
        use_rotary_positional_embeddings=True,
        ofs_embed_dim=16 if image and is_new else None,
    )
    save_transformer(random_model(CogVideoXTransformer, config, seed=1), folder / "transformer")
    vae = CogVideoXVAEConfig(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2)
    save_vae(random_model(CogVideoXVAE, vae, seed=2), folder / "vae")
    noise = CogVideoXSchedulerConfig(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    save_scheduler(CogVideoXDPMScheduler(noise), folder / "scheduler")
    text_parts(folder, "t5")
    name = "CogVideoXImageToVideoPipeline" if image else "CogVideoXPipeline"
    index(folder, name, "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX", "T5EncoderModel")
    return folder


def text_parts(folder: Path, model_type: str, *, weights: bool = True) -> None:
    """tokenizer/ and text_encoder/."""
    train_tokenizer(folder / "tokenizer", SENTENCES, vocab_size=300)
    config = T5Config(
        model_type=model_type,
        vocab_size=300,
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
    )
    if weights:
        save_text_encoder(random_model(T5Encoder, config, seed=3), folder / "text_encoder")
    else:
        write_json(folder / "text_encoder" / "config.json", T5Encoder.write_config(config))


def index(folder: Path, pipeline: str, transformer: str, vae: str, encoder: str) -> None:
    """model_index.json, as diffusers writes it."""
    document = {
        "_class_name": pipeline,
        "transformer": ["diffusers", transformer],
        "vae": ["diffusers", vae],
        "text_encoder": ["transformers", encoder],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }
    write_json(folder / "model_index.json", document)


def write_json(path: Path, document: dict) -> None:
    """Makes the folder, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
