// Data table: configurations of published models and what is published about them.
//! Configurations of published models, made from their published numbers. Shared by the golden numbers here and the
//! golden plans of `overflowml`; each uses a part of it.

#![allow(dead_code)]

use serde_json::{Value, json};

/// A dense decoder: vocabulary, hidden, intermediate, layers, heads, key/value heads.
pub fn dense(class: &str, sizes: [u64; 6], more: Value) -> Value {
    let [vocab, hidden, intermediate, layers, heads, kv] = sizes;
    let mut config = json!({
        "architectures": [class], "torch_dtype": "bfloat16", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv,
    });
    let Value::Object(more) = more else { panic!("fields are an object") };
    config.as_object_mut().unwrap().extend(more);
    config
}

fn diffusers(class: &str, mut fields: Value) -> Value {
    fields["_class_name"] = json!(class);
    fields
}

const LLAMA: &str = "LlamaForCausalLM";
const QWEN2: &str = "Qwen2ForCausalLM";
const QWEN3: &str = "Qwen3ForCausalLM";

pub fn small_decoders() -> Vec<(&'static str, u64, Value)> {
    let tied = || json!({ "tie_word_embeddings": true });
    let heads = |width: u64| json!({ "head_dim": width });
    let both = json!({ "tie_word_embeddings": true, "head_dim": 128 });
    vec![
        ("Llama-2-7B", 6_738_415_616, dense(LLAMA, [32_000, 4096, 11_008, 32, 32, 32], json!({}))),
        ("Llama-3-8B", 8_030_261_248, dense(LLAMA, [128_256, 4096, 14_336, 32, 32, 8], json!({}))),
        (
            "Llama-3-70B",
            70_553_706_496,
            dense(LLAMA, [128_256, 8192, 28_672, 80, 64, 8], json!({})),
        ),
        ("Llama-3.2-1B", 1_235_814_400, dense(LLAMA, [128_256, 2048, 8192, 16, 32, 8], tied())),
        (
            "Llama-3.2-3B",
            3_212_749_824,
            dense(LLAMA, [128_256, 3072, 8192, 28, 24, 8], both.clone()),
        ),
        (
            "Mistral-7B",
            7_241_732_096,
            dense("MistralForCausalLM", [32_000, 4096, 14_336, 32, 32, 8], json!({})),
        ),
        ("Qwen2.5-0.5B", 494_032_768, dense(QWEN2, [151_936, 896, 4864, 24, 14, 2], tied())),
        ("Qwen2.5-7B", 7_615_616_512, dense(QWEN2, [152_064, 3584, 18_944, 28, 28, 4], json!({}))),
        ("Qwen3-0.6B", 596_049_920, dense(QWEN3, [151_936, 1024, 3072, 28, 16, 8], both)),
        // Its file holds the tied head a second time.
        (
            "Qwen3-0.6B, head counted",
            751_632_384,
            dense(QWEN3, [151_936, 1024, 3072, 28, 16, 8], heads(128)),
        ),
        ("Qwen3-8B", 8_190_735_360, dense(QWEN3, [151_936, 4096, 12_288, 36, 32, 8], heads(128))),
        ("Qwen3-32B", 32_762_123_264, dense(QWEN3, [151_936, 5120, 25_600, 64, 64, 8], heads(128))),
        (
            "Gemma-7B",
            8_537_680_896,
            dense("GemmaForCausalLM", [256_000, 3072, 24_576, 28, 16, 16], heads(256)),
        ),
        (
            "Gemma-2-2B",
            2_614_341_888,
            dense("Gemma2ForCausalLM", [256_000, 2304, 9216, 26, 8, 4], heads(256)),
        ),
        (
            "Gemma-2-9B",
            9_241_705_984,
            dense("Gemma2ForCausalLM", [256_000, 3584, 14_336, 42, 16, 8], heads(256)),
        ),
        (
            "Gemma-3-1B",
            999_885_952,
            dense("Gemma3ForCausalLM", [262_144, 1152, 6912, 26, 4, 1], heads(256)),
        ),
        (
            "Phi-3-mini",
            3_821_079_552,
            dense("Phi3ForCausalLM", [32_064, 3072, 8192, 32, 32, 32], json!({})),
        ),
        (
            "Phi-4",
            14_659_507_200,
            dense("Phi3ForCausalLM", [100_352, 5120, 17_920, 40, 40, 10], json!({})),
        ),
        (
            "SmolLM3-3B",
            3_075_098_624,
            dense("SmolLM3ForCausalLM", [128_256, 2048, 11_008, 36, 16, 4], tied()),
        ),
        (
            "OLMo-2-7B",
            7_298_617_344,
            dense("Olmo2ForCausalLM", [100_352, 4096, 11_008, 32, 32, 32], json!({})),
        ),
        (
            "Granite-3.1-8B",
            8_170_848_256,
            dense("GraniteForCausalLM", [49_155, 4096, 12_800, 40, 32, 8], tied()),
        ),
    ]
}

pub fn deepseek_v3() -> Value {
    let more = json!({
        "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 163_840,
        "quantization_config": { "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128] },
    });
    dense("DeepseekV3ForCausalLM", [129_280, 7168, 18_432, 61, 128, 128], more)
}

pub fn gpt_oss(layers: u64, experts: u64) -> Value {
    let types: Vec<&str> = (0..layers)
        .map(|layer| if layer % 2 == 0 { "sliding_attention" } else { "full_attention" })
        .collect();
    let more = json!({
        "num_local_experts": experts, "num_experts_per_tok": 4, "head_dim": 64, "sliding_window": 128,
        "attention_bias": true, "layer_types": types, "max_position_embeddings": 131_072,
        "quantization_config": { "quant_method": "mxfp4" },
    });
    dense("GptOssForCausalLM", [201_088, 2880, 2880, layers, 64, 8], more)
}

pub fn mixtures() -> Vec<(&'static str, u64, Value)> {
    let qwen3 = |inner: u64| {
        json!({
            "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": inner,
        })
    };
    let deepseek_v2 = json!({
        "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128,
    });
    let qwen1_5 = json!({
        "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_experts": 60,
        "num_experts_per_tok": 4,
    });
    vec![
        (
            "Mixtral-8x7B",
            46_702_792_704,
            dense(
                "MixtralForCausalLM",
                [32_000, 4096, 14_336, 32, 32, 8],
                json!({ "num_local_experts": 8 }),
            ),
        ),
        (
            "Mixtral-8x22B",
            140_620_634_112,
            dense(
                "MixtralForCausalLM",
                [32_000, 6144, 16_384, 56, 48, 8],
                json!({ "num_local_experts": 8 }),
            ),
        ),
        (
            "Qwen1.5-MoE-A2.7B",
            14_315_784_192,
            dense("Qwen2MoeForCausalLM", [151_936, 2048, 5632, 24, 16, 16], qwen1_5),
        ),
        (
            "Qwen3-30B-A3B",
            30_532_122_624,
            dense("Qwen3MoeForCausalLM", [151_936, 2048, 6144, 48, 32, 4], qwen3(768)),
        ),
        (
            "Qwen3-235B-A22B",
            235_093_634_560,
            dense("Qwen3MoeForCausalLM", [151_936, 4096, 12_288, 94, 64, 4], qwen3(1536)),
        ),
        (
            "OLMoE-1B-7B",
            6_919_161_856,
            dense(
                "OlmoeForCausalLM",
                [50_304, 2048, 1024, 16, 16, 16],
                json!({ "num_experts": 64 }),
            ),
        ),
        (
            "DeepSeek-V2-Lite",
            15_706_484_224,
            dense("DeepseekV2ForCausalLM", [102_400, 2048, 10_944, 27, 16, 16], deepseek_v2),
        ),
        // Without the layer that predicts a further token.
        ("DeepSeek-V3", 671_026_419_200, deepseek_v3()),
        ("gpt-oss-20b", 20_914_757_184, gpt_oss(24, 32)),
        ("gpt-oss-120b", 116_829_156_672, gpt_oss(36, 128)),
        (
            "Llama-4-Scout",
            108_641_793_536,
            json!({
                "architectures": ["Llama4ForConditionalGeneration"], "text_config": { "num_local_experts": 16 },
                "vision_config": { "hidden_size": 1408, "vision_output_dim": 4096 },
            }),
        ),
    ]
}

fn clip() -> Value {
    json!({
        "architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    })
}

fn big_clip() -> Value {
    json!({
        "architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280, "intermediate_size": 5120,
        "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280,
    })
}

fn t5() -> Value {
    json!({
        "architectures": ["T5EncoderModel"], "d_model": 4096, "d_ff": 10_240, "num_layers": 24, "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    })
}

fn sd3(layers: u64) -> Value {
    json!({
        "num_layers": layers, "num_attention_heads": layers, "caption_projection_dim": 64 * layers,
        "pos_embed_max_size": 192,
    })
}

fn sd35_large() -> Value {
    let mut large = sd3(38);
    large["qk_norm"] = json!("rms_norm");
    large
}

fn sdxl() -> Value {
    json!({
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048, "addition_embed_type": "text_time", "use_linear_projection": true,
        "projection_class_embeddings_input_dim": 2816, "attention_head_dim": [5, 10, 20],
    })
}

fn vae(channels: u64) -> Value {
    json!({
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": channels,
        "use_quant_conv": false, "use_post_quant_conv": false,
    })
}

fn small_wan() -> Value {
    json!({ "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30 })
}

/// Text part of the model that reads Qwen-Image's prompts.
fn qwen2_5_vl() -> Value {
    let mut config = dense(
        "Qwen2_5_VLForConditionalGeneration",
        [152_064, 3584, 18_944, 28, 28, 4],
        json!({ "max_position_embeddings": 128_000 }),
    );
    config["vision_config"] = json!({
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14, "in_chans": 3,
    });
    config
}

fn umt5() -> Value {
    json!({
        "architectures": ["UMT5EncoderModel"], "d_model": 4096, "d_ff": 10_240, "num_layers": 24, "num_heads": 64,
        "vocab_size": 256_384, "feed_forward_proj": "gated-gelu", "torch_dtype": "bfloat16",
    })
}

/// A component of a pipeline: its folder, its class, its configuration.
pub type Component = (&'static str, &'static str, Value);

/// Whole pipelines: a name and the components with weights.
pub fn pipelines() -> Vec<(&'static str, &'static str, Vec<Component>)> {
    let clip = || ("text_encoder", "CLIPTextModel", clip());
    let big_clip = || ("text_encoder_2", "CLIPTextModelWithProjection", big_clip());
    let t5 = |name| (name, "T5EncoderModel", t5());
    let kl = |channels| ("vae", "AutoencoderKL", vae(channels));
    let wan_vae = || ("vae", "AutoencoderKLWan", json!({}));
    let umt5 = || ("text_encoder", "UMT5EncoderModel", umt5());
    let flux = |guided| {
        let config = json!({ "guidance_embeds": guided });
        vec![
            clip(),
            t5("text_encoder_2"),
            ("transformer", "FluxTransformer2DModel", config),
            kl(16),
        ]
    };
    let stable_3 = |config| {
        let large = ("text_encoder", "CLIPTextModelWithProjection", self::clip());
        let denoiser = ("transformer", "SD3Transformer2DModel", config);
        vec![large, big_clip(), t5("text_encoder_3"), denoiser, kl(16)]
    };
    let wan = |name| (name, "WanTransformer3DModel", json!({}));
    let unet = |config| ("unet", "UNet2DConditionModel", config);
    let small = unet(json!({ "cross_attention_dim": 768 }));
    let qwen = vec![
        ("text_encoder", "Qwen2_5_VLForConditionalGeneration", qwen2_5_vl()),
        ("transformer", "QwenImageTransformer2DModel", json!({})),
        ("vae", "AutoencoderKLQwenImage", json!({})),
    ];
    let small_wan = ("transformer", "WanTransformer3DModel", small_wan());
    vec![
        ("SD1.5", "StableDiffusionPipeline", vec![clip(), small, kl(4)]),
        ("SDXL", "StableDiffusionXLPipeline", vec![clip(), big_clip(), unet(sdxl()), kl(4)]),
        ("SD3-medium", "StableDiffusion3Pipeline", stable_3(sd3(24))),
        ("SD3.5-large", "StableDiffusion3Pipeline", stable_3(sd35_large())),
        ("FLUX.1-schnell", "FluxPipeline", flux(false)),
        ("FLUX.1-dev", "FluxPipeline", flux(true)),
        ("Qwen-Image", "QwenImagePipeline", qwen),
        ("Wan2.1-1.3B", "WanPipeline", vec![umt5(), small_wan, wan_vae()]),
        ("Wan2.1-14B", "WanPipeline", vec![umt5(), wan("transformer"), wan_vae()]),
        (
            "Wan2.2-A14B",
            "WanPipeline",
            vec![umt5(), wan("transformer"), wan("transformer_2"), wan_vae()],
        ),
    ]
}

/// The parts of pipelines alone, with their published parameters.
pub fn parts_of_pipelines() -> Vec<(&'static str, u64, Value)> {
    vec![
        ("CLIP ViT-L text", 123_060_480, clip()),
        ("OpenCLIP bigG text", 694_659_840, big_clip()),
        ("T5-XXL encoder", 4_762_310_656, t5()),
        (
            "FLUX.1-dev",
            11_901_408_320,
            diffusers("FluxTransformer2DModel", json!({ "guidance_embeds": true })),
        ),
        ("FLUX.1-schnell", 11_891_178_560, diffusers("FluxTransformer2DModel", json!({}))),
        ("SD3-medium", 2_028_328_000, diffusers("SD3Transformer2DModel", sd3(24))),
        ("SD3.5-large", 8_056_627_520, diffusers("SD3Transformer2DModel", sd35_large())),
        ("SDXL", 2_567_463_684, diffusers("UNet2DConditionModel", sdxl())),
        (
            "SD1.5",
            859_520_964,
            diffusers("UNet2DConditionModel", json!({ "cross_attention_dim": 768 })),
        ),
        ("Qwen-Image", 20_430_401_088, diffusers("QwenImageTransformer2DModel", json!({}))),
        ("Wan2.1-14B", 14_288_491_584, diffusers("WanTransformer3DModel", json!({}))),
        ("Wan2.1-1.3B", 1_418_996_800, diffusers("WanTransformer3DModel", small_wan())),
        ("FLUX.1 VAE", 83_819_683, diffusers("AutoencoderKL", vae(16))),
        ("Wan2.1 VAE", 126_892_531, diffusers("AutoencoderKLWan", json!({}))),
    ]
}

pub fn qwen3_6_27b() -> Value {
    json!({
        "architectures": ["Qwen3_5ForConditionalGeneration"], "dtype": "bfloat16",
        "text_config": {
            "hidden_size": 5120, "intermediate_size": 17_408, "num_hidden_layers": 64, "num_attention_heads": 24,
            "num_key_value_heads": 4, "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
            "full_attention_interval": 4, "vocab_size": 248_320, "max_position_embeddings": 262_144,
        },
    })
}
