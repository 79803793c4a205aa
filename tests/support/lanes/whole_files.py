"""Tiny checkpoints built as SD 1.5, SDXL and SD 3 are, as a folder and as the single file that people share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextModelWithProjection

from benchmarks.families import parts, vaes
from models.catalogue import Catalogue
from tests.support.catalogues import open_catalogue
from tests.support.lanes.original_layout import write_whole_file

WIDER = 48  # of the second text encoder: the library tells the two apart by their widths


def tiny_pipeline(xl: bool) -> Any:
    """Builds the structure of SD 1.5 or SDXL, block for block, with a few thousand weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        levels = 3 if xl else 4
        cross, plain = "CrossAttn{}Block2D", "{}Block2D"
        names = [plain, cross, cross] if xl else [cross, cross, cross, plain]
        added = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + WIDER,
            "transformer_layers_per_block": [1, 1, 2],
        }
        unet = diffusers.UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16, 16, 16)[:levels],
            down_block_types=[name.format("Down") for name in names],
            up_block_types=[name.format("Up") for name in reversed(names)],
            cross_attention_dim=parts.TEXT_DIM + (WIDER if xl else 0),
            attention_head_dim=2,
            norm_num_groups=4,
            use_linear_projection=xl,
            **(added if xl else {}),
        ).eval()
        vae = vaes.small_vae(4, (8, 8, 8, 8)).eval()
        scheduler = diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        )
        texts = {"text_encoder": parts.clip_text().eval(), "tokenizer": parts.clip_tokenizer()}
        if not xl:
            return diffusers.StableDiffusionPipeline(
                unet=unet,
                vae=vae,
                scheduler=scheduler,
                **texts,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        second = parts.clip_text(CLIPTextModelWithProjection, WIDER, layers=10).eval()
        return diffusers.StableDiffusionXLPipeline(
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            **texts,
            text_encoder_2=second,
            tokenizer_2=parts.clip_tokenizer(),
            force_zeros_for_empty_prompt=True,
        )


def as_folder_and_as_file(root: Path, pipeline: Any) -> Catalogue:
    """Lists the pipeline as `whole`, a folder, and as `one`, a file in the original layout.

    The base of the file has configs and vocabularies alone.
    """
    pipeline.save_pretrained(root / "folder")
    write_whole_file(root / "folder", root / "civitai.safetensors")
    shutil.copytree(root / "folder", root / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    toml = '[models.whole]\nsource = "folder"\n[models.one]\nsource = "civitai.safetensors"\nload.base = "base"\n'
    return open_catalogue(root, toml)


def tiny_sd3(newer: bool, t5: bool = False) -> Any:
    """Builds the structure of SD 3, or that of SD 3.5, which has norms and a second attention."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = parts.TEXT_DIM + WIDER
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=wide,
            pooled_projection_dim=wide,
            pos_embed_max_size=32,
            qk_norm="rms_norm" if newer else None,
            dual_attention_layers=(0,) if newer else (),
        ).eval()
        first = parts.clip_text(CLIPTextModelWithProjection).eval()
        # These files lack the projection of the first CLIP, and the library then uses the identity.
        first.text_projection.weight.data = torch.eye(parts.TEXT_DIM)
        return diffusers.StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vaes.flow_vae(4, scaling_factor=1.5).eval(),
            text_encoder=first,
            tokenizer=parts.clip_tokenizer(),
            text_encoder_2=parts.clip_text(CLIPTextModelWithProjection, WIDER, layers=10).eval(),
            tokenizer_2=parts.clip_tokenizer(),
            text_encoder_3=parts.t5_text(wide, layers=1).eval() if t5 else None,
            tokenizer_3=parts.t5_tokenizer() if t5 else None,
        )
