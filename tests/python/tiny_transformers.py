"""Tiny random transformers models, one per architecture, and an input for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

SMALL = {"hidden_size": 32, "intermediate_size": 160, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 1056}
GROUPED = {**SMALL, "num_key_value_heads": 2}
EXPERTS = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def ids(length: int = 7) -> torch.Tensor:
    return torch.randint(3, 100, (2, length), generator=torch.Generator().manual_seed(3))


def pixels(size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def text(**more: Any) -> dict[str, Any]:
    return {"input_ids": ids(), "attention_mask": torch.ones(2, 7, dtype=torch.long), **more}


VISION = {**{k: v for k, v in SMALL.items() if k != "vocab_size"}, "image_size": 32, "patch_size": 8}

ARCHITECTURES: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "llama": (lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)), text),
    "llama_tied": (lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED, tie_word_embeddings=True)), text),
    "qwen3": (lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED, head_dim=8)), text),
    "gemma3": (
        lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=4, max_position_embeddings=64)), text
    ),
    "phi3": (lambda: t.Phi3ForCausalLM(t.Phi3Config(**GROUPED, pad_token_id=0)), text),
    "gpt2": (lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=6, n_head=4, vocab_size=1056, n_positions=64)), text),
    "mamba": (lambda: t.MambaForCausalLM(t.MambaConfig(hidden_size=32, state_size=8, num_hidden_layers=6, vocab_size=1056)),
              lambda: {"input_ids": ids()}),
    "mixtral": (lambda: t.MixtralForCausalLM(t.MixtralConfig(**GROUPED, num_local_experts=4)), text),
    "qwen3_moe": (lambda: t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**EXPERTS, head_dim=8)), text),
    "olmoe": (lambda: t.OlmoeForCausalLM(t.OlmoeConfig(**{k: v for k, v in EXPERTS.items() if k != "moe_intermediate_size"})), text),
    "bert": (lambda: t.BertModel(t.BertConfig(**SMALL)), text),
    "roberta": (lambda: t.RobertaForMaskedLM(t.RobertaConfig(**SMALL, max_position_embeddings=40)), text),
    "albert": (lambda: t.AlbertModel(t.AlbertConfig(**SMALL, embedding_size=16)), text),
    "modernbert": (
        lambda: t.ModernBertModel(t.ModernBertConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)),
        text,
    ),
    "t5": (lambda: t.T5ForConditionalGeneration(t.T5Config(d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=4, vocab_size=1056)),
           lambda: text(decoder_input_ids=ids(5))),
    "bart": (
        lambda: t.BartForConditionalGeneration(t.BartConfig(
            d_model=32, encoder_layers=3, decoder_layers=3, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=4,
            decoder_attention_heads=4, vocab_size=1056, max_position_embeddings=64)),
        lambda: text(decoder_input_ids=ids(5)),
    ),
    "whisper": (
        lambda: t.WhisperModel(t.WhisperConfig(
            d_model=32, encoder_layers=3, decoder_layers=3, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=4,
            decoder_attention_heads=4, vocab_size=1056, num_mel_bins=16, max_source_positions=50, max_target_positions=40, pad_token_id=0)),
        lambda: {"input_features": torch.rand(1, 16, 100, generator=torch.Generator().manual_seed(1)), "decoder_input_ids": ids(5)[:1]},
    ),
    "vit": (lambda: t.ViTModel(t.ViTConfig(**VISION)), lambda: {"pixel_values": pixels()}),
    "dinov2": (lambda: t.Dinov2Model(t.Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"})),
               lambda: {"pixel_values": pixels()}),
    "convnext": (lambda: t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1])),
                 lambda: {"pixel_values": pixels()}),
    "clip": (
        lambda: t.CLIPModel(t.CLIPConfig(text_config={**SMALL, "max_position_embeddings": 16}, vision_config=VISION, projection_dim=16)),
        lambda: {**text(), "pixel_values": pixels()},
    ),
}


def make(name: str) -> Any:
    """The tiny model `name`: the same weights each time."""
    torch.manual_seed(0)
    return ARCHITECTURES[name][0]().eval()


def run(name: str, model: Any) -> list[torch.Tensor]:
    """Every tensor that `model` returns for its input."""
    with torch.no_grad():
        output = model(**ARCHITECTURES[name][1]())
    return [value for value in output.values() if isinstance(value, torch.Tensor)]
