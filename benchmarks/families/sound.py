"""Video models with sound: LTX 2 and Kandinsky 6. Only the frames are compared."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import components, flow, small
from benchmarks.families.family import Family


def ltx_2(**more: Any) -> dict[str, Any]:
    transformer = small(
        diffusers.LTX2VideoTransformer3DModel,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=16,
        rope_type="split",
        perturbed_attn=True,
        use_keyframes_abs_pos_embedding=True,
    )
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,  # the layers of the text encoder plus its embedding
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=16,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=16,
        rope_type="split",
    )
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        decoder_causal=False,
    )
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=16,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
    )
    sound = {"connectors": connectors, "audio_vae": audio_vae, "vocoder": vocoder}
    return components(
        transformer,
        vae,
        flow(),
        (parts.gemma_3(transformers.Gemma3ForConditionalGeneration), parts.gemma_tokenizer()),
        **sound,
        **more,
    )


def kandinsky_6() -> dict[str, Any]:
    transformer = diffusers.Kandinsky6Transformer3DModel(
        in_text_dim=32,
        in_text_dim2=16,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 2, 2),
        in_audio_dim=4,
        out_audio_dim=4,
    )
    audio_vae = diffusers.MMAudioVAE(mel_bins=8, latent_channels=4, hidden_channels=16, layers_per_block=1)
    vocoder = diffusers.MMAudioVocoder(
        num_mels=8,
        upsample_initial_channel=32,
        upsample_rates=(8, 8, 8),
        upsample_kernel_sizes=(16, 16, 16),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3, 5),),
    )
    processor = parts.qwen_processor(transformers.Qwen2_5_VLProcessor)
    return components(
        transformer,
        vaes.hunyuan_video_vae(16, 2),
        flow(shift=7.0),
        (parts.qwen_vl_text(32), processor),
        encoders.clip(dim=16),
        audio_vae=audio_vae,
        vocoder=vocoder,
    )


LTX_CALL = {"max_sequence_length": 32, "spatio_temporal_guidance_blocks": [1]}

FAMILIES = (
    Family("LTX2Pipeline", "video", ltx_2, other_size=64, num_frames=9, call=LTX_CALL),
    Family("LTX2ConditionPipeline", "video", ltx_2, other_size=64, num_frames=9, call=LTX_CALL),
    Family("LTX2DFRPipeline", "video", ltx_2, other_size=64, num_frames=9, call={"max_sequence_length": 32}),
    Family("LTX2HDRPipeline", "video", ltx_2, other_size=64, num_frames=9, call={"max_sequence_length": 32}),
    Family("Kandinsky6TI2VAPipeline", "video", kandinsky_6, num_frames=5, needs="torchvision"),
)  # fmt: skip
