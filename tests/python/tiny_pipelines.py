"""Tiny random diffusers pipelines, one per family: made here, with tokenizers of letters, so that nothing is downloaded."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers as d
import torch
import transformers as t

LETTERS = list(string.ascii_lowercase)
STEPS = 2


@dataclass
class Tiny:
    """A pipeline and how to call it."""

    pipe: Any
    arguments: dict[str, Any]

    def run(self) -> torch.Tensor:
        """What it makes, always from the same noise."""
        generator = torch.Generator().manual_seed(7)
        out = self.pipe(**self.arguments, generator=generator, num_inference_steps=STEPS, output_type="pt")
        value = out.images if hasattr(out, "images") else out.frames
        return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def clip_tokenizer() -> Any:
    vocab = {c: i for i, c in enumerate([*LETTERS, *(c + "</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"])}
    return t.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def t5_tokenizer() -> Any:
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in LETTERS)]
    return t.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=16)


def qwen_tokenizer() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {c: i for i, c in enumerate([*special, *LETTERS, *string.ascii_uppercase, "Ġ", ".", ",", "<", "|", ">", "_", "-", ":", "Ċ"])}
    return t.Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)


def clip_text(projected: bool = False, width: int = 32) -> Any:
    config = t.CLIPTextConfig(
        bos_token_id=52, eos_token_id=53, pad_token_id=53, hidden_size=width, intermediate_size=64, num_attention_heads=4,
        num_hidden_layers=5, vocab_size=54, projection_dim=width, max_position_embeddings=16, hidden_act="gelu",
    )
    return (t.CLIPTextModelWithProjection if projected else t.CLIPTextModel)(config).eval()


def t5_text(width: int = 32, kind: Any = t.T5EncoderModel) -> Any:
    shape = {"d_model": width, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 5, "vocab_size": 64}
    config = (t.UMT5Config if kind is t.UMT5EncoderModel else t.T5Config)(**shape)
    return kind(config).eval()


def image_vae(latents: int = 4, **more: Any) -> Any:
    return d.AutoencoderKL(
        block_out_channels=(16, 32), in_channels=3, out_channels=3, latent_channels=latents, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **more,
    ).eval()


def unet(cross: int = 32, **more: Any) -> Any:
    arguments: dict[str, Any] = {
        "block_out_channels": (16, 32), "layers_per_block": 2, "sample_size": 16, "in_channels": 4, "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": cross, "attention_head_dim": 4, "norm_num_groups": 8,
    }
    return d.UNet2DConditionModel(**{**arguments, **more}).eval()


def sdxl_unet() -> Any:
    return unet(
        64, attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80, norm_num_groups=4,
    )


def sdxl_parts() -> dict[str, Any]:
    return {
        "vae": image_vae(), "text_encoder": clip_text(), "text_encoder_2": clip_text(True), "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(), "scheduler": d.EulerDiscreteScheduler(),
    }


def prompt(**more: Any) -> dict[str, Any]:
    return {"prompt": "a small cat", "height": 32, "width": 32, **more}


def sd1() -> Tiny:
    pipe = d.StableDiffusionPipeline(
        vae=image_vae(), text_encoder=clip_text(), tokenizer=clip_tokenizer(), unet=unet(), scheduler=d.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    return Tiny(pipe, prompt(negative_prompt="dog"))


def sdxl() -> Tiny:
    return Tiny(d.StableDiffusionXLPipeline(unet=sdxl_unet(), **sdxl_parts()), prompt())


def sdxl_lora() -> Tiny:
    tiny = sdxl()
    from peft import LoraConfig

    tiny.pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
    return tiny


def sd1_controlnet() -> Tiny:
    parts = sd1().pipe.components
    control = d.ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(16, 32)).eval()
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    pipe = d.StableDiffusionControlNetPipeline(**parts, controlnet=control, requires_safety_checker=False)
    return Tiny(pipe, prompt(image=torch.rand(1, 3, 32, 32)))


def sd3() -> Tiny:
    transformer = d.SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=4, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
    ).eval()
    pipe = d.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=d.FlowMatchEulerDiscreteScheduler(), vae=image_vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_text(True), tokenizer=clip_tokenizer(), text_encoder_2=clip_text(True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_text(), tokenizer_3=t5_tokenizer(),
    )
    return Tiny(pipe, prompt(max_sequence_length=16))


def flux_parts() -> dict[str, Any]:
    transformer = d.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=4, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    ).eval()
    return {
        "transformer": transformer, "scheduler": d.FlowMatchEulerDiscreteScheduler(),
        "vae": image_vae(1, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": clip_text(), "tokenizer": clip_tokenizer(), "text_encoder_2": t5_text(), "tokenizer_2": t5_tokenizer(),
    }


def flux() -> Tiny:
    return Tiny(d.FluxPipeline(**flux_parts()), prompt(max_sequence_length=16))


def flux_image() -> Tiny:
    picture = torch.rand(1, 3, 32, 32)
    return Tiny(d.FluxImg2ImgPipeline(**flux_parts()), prompt(max_sequence_length=16, image=picture, strength=0.8))


def flux_lora() -> Tiny:
    from peft import LoraConfig

    tiny = flux()
    tiny.pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k"], init_lora_weights=False), "style")
    return tiny


def pixart() -> Tiny:
    transformer = d.PixArtTransformer2DModel(
        sample_size=8, num_layers=4, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32, in_channels=4,
        cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, use_additional_conditions=False,
    ).eval()
    pipe = d.PixArtAlphaPipeline(
        transformer=transformer, vae=image_vae(), scheduler=d.DDIMScheduler(steps_offset=1, clip_sample=False), text_encoder=t5_text(), tokenizer=t5_tokenizer()
    )
    return Tiny(pipe, prompt(use_resolution_binning=False, max_sequence_length=16, clean_caption=False))


def sana() -> Tiny:
    transformer = d.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=3, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8, sample_size=32,
    ).eval()
    vae = d.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1], downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    ).eval()
    config = t.Gemma2Config(
        head_dim=16, hidden_size=8, intermediate_size=64, max_position_embeddings=8192, num_attention_heads=2, num_hidden_layers=3,
        num_key_value_heads=2, vocab_size=64,
    )
    pipe = d.SanaPipeline(
        transformer=transformer, vae=vae, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=t.Gemma2Model(config).eval(), tokenizer=t5_tokenizer(),
    )
    return Tiny(pipe, prompt(use_resolution_binning=False, max_sequence_length=16, complex_human_instruction=None, clean_caption=False))


def wan() -> Tiny:
    transformer = d.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, freq_dim=64,
        ffn_dim=32, num_layers=3, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    ).eval()
    vae = d.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]).eval()
    pipe = d.WanPipeline(
        transformer=transformer, vae=vae, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=t5_text(kind=t.UMT5EncoderModel), tokenizer=t5_tokenizer(),
    )
    return Tiny(pipe, {"prompt": "a small cat", "height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16})


def ltx() -> Tiny:
    transformer = d.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=4, attention_head_dim=8,
        cross_attention_dim=32, num_layers=3, caption_channels=32,
    ).eval()
    vae = d.AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4, timestep_conditioning=False, patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    ).eval()
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    pipe = d.LTXPipeline(
        transformer=transformer, vae=vae, scheduler=d.FlowMatchEulerDiscreteScheduler(), text_encoder=t5_text(), tokenizer=t5_tokenizer()
    )
    return Tiny(pipe, {"prompt": "a small cat", "height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 16})


def qwen_image() -> Tiny:
    transformer = d.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
    ).eval()
    z = 4
    vae = d.AutoencoderKLQwenImage(
        base_dim=z * 6, z_dim=z, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * z, latents_std=[1.0] * z,
    ).eval()
    text = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2,
        "vocab_size": 128, "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1000000.0},
    }
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16, "fullatt_block_indexes": [1],
    }
    config = t.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vocab_size=128, vision_end_token_id=1, vision_start_token_id=0, vision_token_id=2,
    )
    pipe = d.QwenImagePipeline(
        transformer=transformer, vae=vae, scheduler=d.FlowMatchEulerDiscreteScheduler(),
        text_encoder=t.Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer=qwen_tokenizer(),
    )
    return Tiny(pipe, prompt(max_sequence_length=16, true_cfg_scale=1.0))


def cogvideox() -> Tiny:
    transformer = d.CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=32, num_layers=3,
        sample_width=2, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=16,
    ).eval()
    vae = d.AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    ).eval()
    pipe = d.CogVideoXPipeline(
        transformer=transformer, vae=vae, scheduler=d.DDIMScheduler(steps_offset=1, clip_sample=False), text_encoder=t5_text(), tokenizer=t5_tokenizer()
    )
    arguments = {"prompt": "a small cat", "height": 16, "width": 16, "num_frames": 8, "max_sequence_length": 16, "guidance_scale": 6.0}
    return Tiny(pipe, arguments)


FAMILIES: dict[str, Callable[[], Tiny]] = {
    f.__name__: f
    for f in (
        sd1, sd1_controlnet, sdxl, sdxl_lora, sd3, flux, flux_image, flux_lora, pixart, sana, wan, ltx, qwen_image, cogvideox,
    )
}


def make(family: str) -> Tiny:
    """The tiny pipeline of `family`: the same weights each time."""
    torch.manual_seed(0)
    tiny = FAMILIES[family]()
    tiny.pipe.set_progress_bar_config(disable=True)
    return tiny
