# Data table: the model families that are compared with transformers, several configurations each.
"""What is compared: one `Case` per configuration, small and seeded.

The sizes are chosen to be awkward (not multiples of vector widths), and every configuration that
adds a mechanism names a change that switches it off (`without`): the tests first show that the
reference notices the difference, so that agreement with it means something.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A configuration of a family."""

    name: str
    family: str
    config: dict[str, Any]
    without: dict[str, Any] | None = None
    """A change of the configuration that the reference's numbers must notice."""
    length: int = 48
    """Tokens to score."""
    shard: str | None = None
    """The largest file, to have several."""
    legacy: bool = False
    """Write config.json as transformers 4 did."""

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"


def case(family: str, name: str, without: dict[str, Any] | None = None, **rest: Any) -> Case:
    own = {key: rest.pop(key) for key in ("length", "shard", "legacy") if key in rest}
    return Case(name, family, {**BASE, **FAMILIES.get(family, {}), **rest}, without, **own)


BASE: dict[str, Any] = dict(
    vocab_size=259,
    hidden_size=48,
    intermediate_size=100,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": dict(sliding_window=8),
    "Qwen2": {},
    "Qwen3": dict(head_dim=16),
    "Phi3": {},
    "Gemma2": dict(
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=8,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=2.0,
        num_hidden_layers=4,
    ),
    "Gemma3Text": dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=8, num_hidden_layers=4),
    "SmolLM3": dict(num_hidden_layers=4, no_rope_layer_interval=2),
    "Olmo2": {},
    "Granite": dict(
        embedding_multiplier=6.0,
        logits_scaling=3.0,
        residual_multiplier=0.4,
        attention_multiplier=0.2,
    ),
}

THETA = {"rope_theta": 10000.0}
PLAIN = {"rope_parameters": {"rope_type": "default", **THETA}}


def rope(kind: str, theta: float = 10000.0, **rest: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **rest}


LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32)
LONG = dict(short_factor=[1.0, 1.1, 1.3, 1.5, 1.9, 2.1], long_factor=[1.0, 1.5, 2.5, 4.0, 8.0, 16.0])
LONGROPE = rope("longrope", original_max_position_embeddings=32, **LONG)

CASES = [
    case("Llama", "plain", num_key_value_heads=4, without={"rope_parameters": rope("default", 3.0)}),
    case(
        "Llama", "head_dim", hidden_size=72, num_attention_heads=6, head_dim=10, intermediate_size=131,
        vocab_size=321,
    ),
    case(
        "Llama", "tied-biases-shards", num_key_value_heads=1, tie_word_embeddings=True, attention_bias=True,
        mlp_bias=True, shard="40KB",
    ),
    case("Llama", "gelu-eps", hidden_act="gelu", rms_norm_eps=0.05, without={"hidden_act": "silu"}),
    case("Llama", "linear", PLAIN, rope_parameters=rope("linear", factor=2.5)),
    case("Llama", "linear-theta", PLAIN, rope_parameters=rope("linear", 500.0, factor=4.0)),
    case("Llama", "linear-legacy", PLAIN, rope_parameters=rope("linear", factor=3.0), legacy=True),
    case("Llama", "llama3", PLAIN, rope_parameters=LLAMA3),
    case(
        "Llama", "llama3-tied", PLAIN, tie_word_embeddings=True,
        rope_parameters={**LLAMA3, "rope_theta": 500000.0, "factor": 32.0, "high_freq_factor": 2.0},
    ),
    case("Llama", "llama3-legacy", PLAIN, rope_parameters=LLAMA3, head_dim=20, legacy=True),
    case("Llama", "yarn", PLAIN, rope_parameters=YARN),
    case("Llama", "yarn-no-truncate", PLAIN, rope_parameters={**YARN, "truncate": False, "beta_fast": 8.0}),
    case(
        "Llama", "yarn-attention", {"rope_parameters": YARN},
        rope_parameters={**YARN, "attention_factor": 1.6}, legacy=True,
    ),
    case(
        "Llama", "yarn-mscale", {"rope_parameters": YARN},
        rope_parameters={**YARN, "mscale": 3.0, "mscale_all_dim": 0.5},
    ),
    case("Mistral", "window", {"sliding_window": None}),
    case("Mistral", "head_dim-window", {"sliding_window": 30}, head_dim=18, sliding_window=13, shard="50KB"),
    case("Mistral", "no-window", {"sliding_window": 20}, sliding_window=None, num_key_value_heads=1),
    case("Mistral", "long-window", {"sliding_window": None}, sliding_window=64, length=200, legacy=True),
    case("Qwen2", "plain", num_key_value_heads=4),
    case("Qwen2", "tied", tie_word_embeddings=True, hidden_size=56, num_attention_heads=7, num_key_value_heads=1),
    case(
        "Qwen2", "sliding", {"use_sliding_window": False}, use_sliding_window=True, sliding_window=8,
        max_window_layers=1, legacy=True,
    ),
    case("Qwen2", "yarn", PLAIN, rope_parameters=YARN),
    case("Qwen3", "plain"),
    case("Qwen3", "tied-biases", tie_word_embeddings=True, attention_bias=True, head_dim=22, shard="40KB"),
    case(
        "Qwen3", "sliding", {"use_sliding_window": False}, use_sliding_window=True, sliding_window=9,
        max_window_layers=2, num_key_value_heads=1,
    ),
    case("Qwen3", "yarn-legacy", PLAIN, rope_parameters=YARN, legacy=True),
    case("Phi3", "fused", num_key_value_heads=4),
    case("Phi3", "window", {"sliding_window": None}, sliding_window=9, intermediate_size=77),
    case(
        "Phi3", "partial-rotary", PLAIN, hidden_size=64, tie_word_embeddings=True,
        rope_parameters={**rope("default"), "partial_rotary_factor": 0.5},
    ),
    case("Phi3", "longrope-short", PLAIN, rope_parameters=LONGROPE, length=30),
    case("Phi3", "longrope-long", PLAIN, rope_parameters=LONGROPE, length=60, legacy=True),
    case(
        "Phi3", "longrope-partial", PLAIN, num_attention_heads=2, num_key_value_heads=1, length=60,
        rope_parameters={**LONGROPE, "partial_rotary_factor": 0.5},
    ),
    case("Gemma2", "plain", {"attn_logit_softcapping": None}),
    case("Gemma2", "no-caps", {"sliding_window": 40}, attn_logit_softcapping=None, final_logit_softcapping=None),
    case("Gemma2", "final-cap-gqa", {"final_logit_softcapping": None}, num_key_value_heads=1, head_dim=10),
    case("Gemma2", "scalar-legacy", {"query_pre_attn_scalar": 100}, shard="60KB", legacy=True),
    case("Gemma3Text", "plain", {"sliding_window": 60}, layer_types=["sliding_attention", "full_attention"] * 2),
    case(
        "Gemma3Text", "linear-global", {"rope_parameters": {"full_attention": rope("default", 1e6), "sliding_attention": rope("default")}},
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "full_attention"],
        rope_parameters={"full_attention": rope("linear", 1e4, factor=8.0), "sliding_attention": rope("default", 100.0)},
    ),
    case("Gemma3Text", "six-to-one", {"sliding_window": 60}, num_hidden_layers=7, num_key_value_heads=1, legacy=True),
    case("SmolLM3", "nope", {"no_rope_layers": [1, 1, 1, 1]}, tie_word_embeddings=True),
    case("SmolLM3", "listed", {"no_rope_layers": [1, 0, 1, 0]}, no_rope_layers=[0, 1, 1, 0], tie_word_embeddings=False),
    case("SmolLM3", "biases", attention_bias=True, mlp_bias=True, tie_word_embeddings=True, shard="50KB"),
    case("Olmo2", "plain", num_key_value_heads=4),
    case("Olmo2", "gqa-tied", tie_word_embeddings=True, hidden_size=60, num_attention_heads=6),
    case("Olmo2", "yarn-biases", PLAIN, rope_parameters=YARN, attention_bias=True),
    case("Granite", "plain", {"residual_multiplier": 0.6}),
    case("Granite", "tied", {"embedding_multiplier": 3.0}, tie_word_embeddings=True, num_key_value_heads=1),
    case("Granite", "biases", {"attention_multiplier": 0.29}, attention_bias=True, mlp_bias=True, logits_scaling=0.7),
]
