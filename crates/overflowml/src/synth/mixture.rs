//! What `config.json` says of mixtures of experts: many small ones, as published models have them.

use serde_json::{Value, json};

use super::shape::Shape;

/// Whether the layers of `architecture` have experts.
pub(super) fn is_mixture(architecture: &str) -> bool {
    let known = ["Mixtral", "Qwen2Moe", "Qwen3Moe", "Olmoe", "GptOss", "DeepseekV2", "DeepseekV3"];
    known.iter().any(|name| architecture.strip_prefix(name) == Some("ForCausalLM"))
}

/// The fields of a mixture, beside the sizes that all families have.
pub(super) fn extras(architecture: &str, shape: &Shape) -> Value {
    // Small models have few experts, or each would be tiny.
    let (experts, active) = if shape.hidden < 512 { (8, 2) } else { (64, 8) };
    let inner = (shape.intermediate / 4).max(8);
    let mut config = match architecture {
        "MixtralForCausalLM" => json!({
            "num_local_experts": experts, "intermediate_size": inner, "sliding_window": null,
            "rope_theta": 1_000_000.0,
        }),
        "Qwen2MoeForCausalLM" => json!({
            "num_experts": experts, "moe_intermediate_size": inner, "norm_topk_prob": false,
            "shared_expert_intermediate_size": 2 * inner, "use_sliding_window": false,
            "rope_theta": 1_000_000.0,
        }),
        "Qwen3MoeForCausalLM" => json!({
            "num_experts": experts, "moe_intermediate_size": inner, "norm_topk_prob": true,
            "use_sliding_window": false, "rope_theta": 1_000_000.0,
        }),
        "OlmoeForCausalLM" => json!({
            "num_experts": experts, "intermediate_size": inner, "norm_topk_prob": false,
            "rope_theta": 10_000.0,
        }),
        "GptOssForCausalLM" => json!({
            "num_local_experts": experts, "intermediate_size": inner, "sliding_window": 128,
            "rope_theta": 150_000.0,
        }),
        _ => deepseek(architecture, shape, (experts, inner)),
    };
    config["num_experts_per_tok"] = active.into();
    config["hidden_act"] = "silu".into();
    config
}

fn deepseek(architecture: &str, shape: &Shape, (experts, inner): (u32, u32)) -> Value {
    let third = architecture == "DeepseekV3ForCausalLM";
    json!({
        "num_key_value_heads": shape.heads,
        "n_routed_experts": experts,
        "moe_intermediate_size": inner,
        "n_shared_experts": 1,
        "first_k_dense_replace": 0,
        "kv_lora_rank": (shape.hidden / 4).max(16),
        "q_lora_rank": if third { json!((shape.hidden / 2).max(16)) } else { Value::Null },
        "qk_nope_head_dim": shape.head_dim,
        "qk_rope_head_dim": shape.head_dim / 2,
        "v_head_dim": shape.head_dim,
        "head_dim": shape.head_dim / 2,
        "topk_method": "greedy",
        "n_group": if third { 4 } else { 1 },
        "topk_group": if third { 2 } else { 1 },
        "rope_theta": 10_000.0,
    })
}
