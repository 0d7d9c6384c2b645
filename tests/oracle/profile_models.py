# Data table: configurations whose sizes are compared with what transformers and diffusers create.
"""Models that are made without weights (on the meta device) and described by their configuration.

Sizes are published ones where the class is cheap to make at full size, and awkward ones elsewhere.
"""

import random
from dataclasses import dataclass
from typing import Any

MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=40)
TEXT = dict(
    vocab_size=259, hidden_size=48, intermediate_size=100, num_hidden_layers=5, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=40, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)
LINEAR = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=12,
    linear_conv_kernel_dim=3, head_dim=16,
)
MLA = dict(kv_lora_rank=24, q_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=8, v_head_dim=14)
SEEN = dict(depth=2, hidden_size=32, intermediate_size=44, num_heads=4, patch_size=6, out_hidden_size=48)
EYES = dict(hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4, image_size=24, patch_size=6)


@dataclass(frozen=True)
class Case:
    """A class of one of the two libraries and its configuration."""

    kind: str
    name: str
    config: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"


def text(kind: str, name: str, **config: Any) -> Case:
    return Case(kind, name, {**TEXT, **config})


TRANSFORMERS = [
    text("LlamaForCausalLM", "plain"),
    text("LlamaForCausalLM", "tied-biases", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=20),
    text("LlamaForCausalLM", "3-70B", vocab_size=128256, hidden_size=8192, intermediate_size=28672,
         num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8),
    text("MistralForCausalLM", "window", sliding_window=8),
    text("Qwen2ForCausalLM", "tied", tie_word_embeddings=True),
    text("Qwen3ForCausalLM", "plain", head_dim=16),
    text("Phi3ForCausalLM", "fused"),
    text("GemmaForCausalLM", "plain", head_dim=16),
    text("Gemma2ForCausalLM", "plain", head_dim=16, sliding_window=8),
    text("Gemma3ForCausalLM", "plain", head_dim=16, sliding_window=8, num_hidden_layers=7),
    Case("Gemma3ForConditionalGeneration", "sees",
         dict(text_config={**TEXT, "head_dim": 16, "sliding_window": 8}, vision_config={**EYES, "vision_use_head": False},
              mm_tokens_per_image=4)),
    text("SmolLM3ForCausalLM", "plain", tie_word_embeddings=True),
    text("Olmo2ForCausalLM", "plain"),
    text("GraniteForCausalLM", "tied", tie_word_embeddings=True),
    text("SeedOssForCausalLM", "plain", head_dim=16),
    text("MixtralForCausalLM", "plain", num_local_experts=6, num_experts_per_tok=2),
    text("MixtralForCausalLM", "8x7B", vocab_size=32000, hidden_size=4096, intermediate_size=14336,
         num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8),
    text("Qwen2MoeForCausalLM", "some-dense", **MOE, shared_expert_intermediate_size=52, mlp_only_layers=[1],
         decoder_sparse_step=2),
    text("Qwen3MoeForCausalLM", "plain", **MOE, head_dim=16),
    text("Qwen3MoeForCausalLM", "every-third", **MOE, head_dim=14, attention_bias=True, decoder_sparse_step=3),
    text("OlmoeForCausalLM", "plain", num_experts=5, num_experts_per_tok=2),
    text("Glm4MoeForCausalLM", "plain", n_routed_experts=6, n_shared_experts=2, moe_intermediate_size=40,
         first_k_dense_replace=2, use_qk_norm=True, attention_bias=True, head_dim=16, n_group=1, topk_group=1),
    text("GptOssForCausalLM", "plain", num_local_experts=6, num_experts_per_tok=2, head_dim=16, sliding_window=8),
    text("DeepseekV2ForCausalLM", "lite", **{**MLA, "q_lora_rank": None}, n_routed_experts=6, n_shared_experts=2,
         moe_intermediate_size=40, first_k_dense_replace=1, num_experts_per_tok=2, num_key_value_heads=4),
    text("DeepseekV2ForCausalLM", "ranks", **MLA, n_routed_experts=6, n_shared_experts=1, moe_intermediate_size=40,
         first_k_dense_replace=2, num_experts_per_tok=2, num_key_value_heads=4, attention_bias=True),
    text("DeepseekV3ForCausalLM", "plain", **MLA, n_routed_experts=8, moe_intermediate_size=40, n_group=2,
         topk_group=1, first_k_dense_replace=2, num_experts_per_tok=2, num_key_value_heads=4),
    Case("DeepseekV3ForCausalLM", "671B", {}),
    text("Qwen3NextForCausalLM", "plain", **MOE, **LINEAR, shared_expert_intermediate_size=52),
    text("Qwen3_5ForCausalLM", "dense", **LINEAR),
    text("Qwen3_5MoeForCausalLM", "moe", **MOE, **LINEAR, shared_expert_intermediate_size=52),
    Case("Qwen3_5ForConditionalGeneration", "sees",
         dict(text_config={**TEXT, **LINEAR}, vision_config={**SEEN, "num_position_embeddings": 49})),
    Case("Qwen3_5MoeForConditionalGeneration", "tied",
         dict(text_config={**TEXT, **MOE, **LINEAR}, vision_config=SEEN, tie_word_embeddings=True)),
    text("Llama4ForCausalLM", "interleaved", num_local_experts=6, interleave_moe_layer_step=2, intermediate_size_mlp=120,
         head_dim=12, attention_chunk_size=16),
    Case("Llama4ForConditionalGeneration", "sees",
         dict(text_config={**TEXT, "num_local_experts": 6, "head_dim": 12, "intermediate_size_mlp": 120},
              vision_config={**EYES, "vision_output_dim": 56, "projector_input_dim": 36, "projector_output_dim": 56})),
    Case("Qwen2_5_VLForConditionalGeneration", "7B",
         dict(text_config=dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
                               num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False),
              vision_config=dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584))),
    Case("Qwen2_5_VLForConditionalGeneration", "tied",
         dict(text_config=TEXT, vision_config=SEEN, tie_word_embeddings=True)),
    Case("T5EncoderModel", "xxl",
         dict(vocab_size=32128, d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")),
    Case("T5EncoderModel", "v1.0", dict(vocab_size=100, d_model=24, d_ff=50, d_kv=7, num_layers=3, num_heads=5)),
    Case("UMT5EncoderModel", "small", dict(vocab_size=100, d_model=24, d_ff=50, d_kv=7, num_layers=3, num_heads=5)),
    Case("CLIPTextModel", "L", dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)),
    Case("CLIPTextModelWithProjection", "bigG",
         dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280)),
    Case("CLIPVisionModel", "small", EYES),
    Case("CLIPVisionModelWithProjection", "H", dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                                                    num_attention_heads=16, patch_size=14, projection_dim=1024)),
    Case("SiglipVisionModel", "so400m", dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
                                             num_attention_heads=16, image_size=384, patch_size=14)),
]

XL = dict(
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    block_out_channels=[320, 640, 1280], transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
XL_UP = ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]
SD_VAE = dict(
    block_out_channels=[128, 256, 512, 512], layers_per_block=2, down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
)

DIFFUSERS = [
    Case("FluxTransformer2DModel", "dev", dict(guidance_embeds=True)),
    Case("FluxTransformer2DModel", "fill", dict(num_layers=2, num_single_layers=3, in_channels=384, out_channels=64)),
    Case("FluxControlNetModel", "union", dict(num_layers=2, num_single_layers=1, num_mode=10, guidance_embeds=True)),
    Case("FluxControlNetModel", "hint", dict(num_layers=1, num_single_layers=0, conditioning_embedding_channels=24)),
    Case("SD3Transformer2DModel", "medium", dict(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192)),
    Case("SD3Transformer2DModel", "3.5-medium", dict(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384, qk_norm="rms_norm",
        dual_attention_layers=list(range(13)))),
    Case("QwenImageTransformer2DModel", "full", {}),
    Case("QwenImageTransformer2DModel", "layered", dict(num_layers=2, use_additional_t_cond=True)),
    Case("WanTransformer3DModel", "14B", {}),
    Case("WanTransformer3DModel", "i2v", dict(num_layers=2, in_channels=36, image_dim=1280, added_kv_proj_dim=5120)),
    Case("WanTransformer3DModel", "flf2v", dict(
        num_layers=1, num_attention_heads=3, image_dim=64, added_kv_proj_dim=384, pos_embed_seq_len=514, cross_attn_norm=False)),
    Case("UNet2DConditionModel", "XL", {**XL, "up_block_types": XL_UP}),
    Case("UNet2DConditionModel", "1.5", dict(cross_attention_dim=768)),
    Case("UNet2DConditionModel", "2.1-lcm", dict(
        cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True, time_cond_proj_dim=256,
        num_class_embeds=1000)),
    Case("UNet2DConditionModel", "shifted", dict(
        block_out_channels=[32, 64, 96, 96], norm_num_groups=8, resnet_time_scale_shift="scale_shift", layers_per_block=1,
        cross_attention_dim=40, only_cross_attention=[True, False, True, False], class_embed_type="timestep")),
    Case("ControlNetModel", "1.5", dict(cross_attention_dim=768)),
    Case("ControlNetModel", "XL", {**XL}),
    Case("AutoencoderKL", "sd", SD_VAE),
    Case("AutoencoderKL", "flux", {**SD_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}),
    Case("AutoencoderKL", "no-attention", {**SD_VAE, "mid_block_add_attention": False}),
    Case("AutoencoderKLWan", "2.1", {}),
    Case("AutoencoderKLWan", "2.2", dict(
        base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
        scale_factor_spatial=16)),
    Case("AutoencoderKLQwenImage", "full", {}),
]


def seeded(count: int) -> list[Case]:
    """Random sizes of the classes whose sizes depend on many of them."""
    choose = random.Random(20)
    cases = []
    for number in range(count):
        head = choose.choice([8, 12, 16])
        kv = choose.choice([1, 2, 3])
        base = dict(
            vocab_size=choose.randrange(50, 400), hidden_size=8 * choose.randrange(4, 12),
            intermediate_size=choose.randrange(30, 200), num_hidden_layers=choose.randrange(1, 9),
            num_attention_heads=kv * choose.choice([1, 2, 4]), num_key_value_heads=kv, head_dim=head,
            tie_word_embeddings=choose.random() < 0.4, attention_bias=choose.random() < 0.4,
        )
        moe = dict(num_experts=choose.randrange(2, 9), num_experts_per_tok=2, moe_intermediate_size=choose.randrange(8, 60))
        kind, more = choose.choice([
            ("LlamaForCausalLM", {}), ("Qwen3ForCausalLM", {}), ("Gemma3ForCausalLM", dict(sliding_window=8)),
            ("Qwen3MoeForCausalLM", {**moe, "decoder_sparse_step": choose.randrange(1, 4)}),
            ("Qwen3NextForCausalLM", {**moe, **LINEAR, "head_dim": head,
                                      "linear_num_value_heads": 2 * choose.randrange(1, 4)}),
            ("GptOssForCausalLM", dict(num_local_experts=moe["num_experts"], num_experts_per_tok=2)),
        ])
        cases.append(text(kind, f"random{number}", **{**base, **more}))
    return cases


TRANSFORMERS += seeded(12)

PIPELINES = {
    "flux": (
        "FluxPipeline",
        {
            "text_encoder": Case("CLIPTextModel", "L", dict(hidden_size=768, num_attention_heads=12)),
            "text_encoder_2": Case("T5EncoderModel", "small", dict(d_model=64, num_layers=2)),
            "transformer": Case("FluxTransformer2DModel", "small", dict(num_layers=1, num_single_layers=1)),
            "vae": Case("AutoencoderKL", "sd", SD_VAE),
        },
        ["text_encoder", "text_encoder_2", "transformer", "vae"],
    ),
    "wan": (
        "WanImageToVideoPipeline",
        {
            "vae": Case("AutoencoderKLWan", "2.1", {}),
            "transformer_2": Case("WanTransformer3DModel", "low", dict(num_layers=1)),
            "transformer": Case("WanTransformer3DModel", "high", dict(num_layers=1, in_channels=36)),
            "image_encoder": Case("CLIPVisionModel", "small", EYES),
            "text_encoder": Case("UMT5EncoderModel", "small", dict(d_model=64, num_layers=2)),
        },
        ["text_encoder", "image_encoder", "transformer", "transformer_2", "vae"],
    ),
    "controlled": (
        "StableDiffusionControlNetPipeline",
        {
            "unet": Case("UNet2DConditionModel", "1.5", dict(cross_attention_dim=768)),
            "controlnet": Case("ControlNetModel", "1.5", dict(cross_attention_dim=768)),
            "text_encoder": Case("CLIPTextModel", "L", dict(hidden_size=768, num_attention_heads=12)),
            "vae": Case("AutoencoderKL", "sd", SD_VAE),
        },
        ["text_encoder", "controlnet", "unet", "vae"],
    ),
}
