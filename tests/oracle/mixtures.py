# Data table: the mixtures of experts that are compared with transformers, several configurations each.
"""Mixtures of experts, as `models` has the dense families: small, seeded, awkward in their sizes."""

from models import LLAMA3, PLAIN, YARN, Case, case, rope

MIXTURES = {
    "Mixtral": dict(num_local_experts=6, num_experts_per_tok=2, intermediate_size=36),
    "Qwen2Moe": dict(
        num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20, shared_expert_intermediate_size=52,
        norm_topk_prob=False, sliding_window=None,
    ),
    "Qwen3Moe": dict(
        head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=28, norm_topk_prob=True,
    ),
    "Olmoe": dict(num_experts=9, num_experts_per_tok=4, intermediate_size=24, norm_topk_prob=False),
    "GptOss": dict(
        head_dim=16, num_local_experts=6, num_experts_per_tok=2, intermediate_size=40, sliding_window=8,
        num_hidden_layers=4, rope_parameters=rope("default"),
    ),
    "DeepseekV2": dict(
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=3,
        moe_intermediate_size=20, n_shared_experts=2, first_k_dense_replace=1, kv_lora_rank=24, q_lora_rank=None,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, routed_scaling_factor=1.7,
    ),
    "DeepseekV3": dict(
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=3,
        moe_intermediate_size=20, n_shared_experts=1, first_k_dense_replace=1, kv_lora_rank=24, q_lora_rank=20,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=14, n_group=4, topk_group=2,
    ),
}

MSCALE = {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}


def mixture(family: str, name: str, without: dict | None = None, **rest) -> Case:
    return case(family, name, without, **{**MIXTURES[family], **rest})


CASES = [
    mixture("Mixtral", "plain", {"num_experts_per_tok": 1}),
    mixture("Mixtral", "window-tied", {"sliding_window": None}, sliding_window=9, tie_word_embeddings=True),
    mixture("Mixtral", "all-active-shards", num_local_experts=3, num_experts_per_tok=3, shard="60KB"),
    mixture("Mixtral", "gqa-legacy", num_key_value_heads=1, num_local_experts=11, legacy=True),
    mixture("Qwen2Moe", "plain", {"norm_topk_prob": True}),
    mixture("Qwen2Moe", "normalised", {"norm_topk_prob": False}, norm_topk_prob=True, num_key_value_heads=4),
    mixture("Qwen2Moe", "sparse", {"decoder_sparse_step": 1}, num_hidden_layers=4, decoder_sparse_step=2),
    mixture("Qwen2Moe", "dense-layers", num_hidden_layers=4, mlp_only_layers=[1, 2], qkv_bias=False),
    mixture("Qwen3Moe", "plain", {"norm_topk_prob": False}),
    mixture("Qwen3Moe", "sums", {"norm_topk_prob": True}, norm_topk_prob=False, attention_bias=True),
    mixture("Qwen3Moe", "sparse-tied", num_hidden_layers=4, decoder_sparse_step=2, tie_word_embeddings=True),
    mixture("Qwen3Moe", "window", {"use_sliding_window": False}, use_sliding_window=True, sliding_window=7),
    mixture("Qwen3Moe", "yarn-legacy", PLAIN, rope_parameters=YARN, legacy=True, shard="60KB"),
    mixture("Olmoe", "plain", {"norm_topk_prob": True}),
    mixture("Olmoe", "clipped", {"clip_qkv": None}, clip_qkv=0.4, num_key_value_heads=4),
    mixture("Olmoe", "biases-llama3", PLAIN, attention_bias=True, rope_parameters=LLAMA3),
    mixture("GptOss", "plain", {"sliding_window": 60}),
    mixture("GptOss", "clamped", {"swiglu_limit": 100.0}, swiglu_limit=0.3),
    mixture("GptOss", "alpha-yarn", PLAIN, swiglu_alpha=0.9, rope_parameters={**YARN, "truncate": False}),
    mixture(
        "GptOss", "no-biases", attention_bias=False, num_key_value_heads=4, num_experts_per_tok=4,
        layer_types=["full_attention"] * 4, shard="90KB",
    ),
    mixture("DeepseekV2", "plain", {"routed_scaling_factor": 1.0}),
    mixture(
        "DeepseekV2", "groups", {"topk_method": "greedy"}, q_lora_rank=28, topk_method="group_limited_greedy",
        n_group=4, topk_group=2,
    ),
    mixture("DeepseekV2", "yarn", PLAIN, rope_parameters=MSCALE, first_k_dense_replace=0),
    mixture("DeepseekV2", "biases-legacy", PLAIN, attention_bias=True, rope_parameters=MSCALE, q_lora_rank=18, legacy=True),
    mixture("DeepseekV3", "plain", {"topk_group": 4}),
    mixture("DeepseekV3", "one-group", {"norm_topk_prob": False}, n_group=1, topk_group=1, q_lora_rank=None),
    mixture("DeepseekV3", "halves", {"rope_interleave": True}, rope_interleave=False, first_k_dense_replace=2),
    mixture("DeepseekV3", "yarn-legacy", PLAIN, rope_parameters=MSCALE, legacy=True, shard="60KB"),
    mixture("DeepseekV3", "sums-biases", norm_topk_prob=False, attention_bias=True, routed_scaling_factor=1.1),
]
