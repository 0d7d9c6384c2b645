"""A first guess at what a model needs beside its weights. The first pass measures it, and residency follows."""

from __future__ import annotations

from typing import Any

from torch import nn

MIB = 1 << 20
_TOKENS = {"denoiser": 4608, "text_encoder": 512, "language_model": 2048, "vae": 0, "other": 1024}
"""Tokens assumed in one pass: an image of 1024 by 1024 pixels with its prompt, a prompt, a long question."""


def estimate_activations(module: nn.Module, kind: str) -> int:
    """Bytes that one pass needs beside weights, on the safe side."""
    if kind == "vae":
        return 256 * MIB + module_width(module) * MIB
    itemsize = next((p.element_size() for p in module.parameters()), 2)
    tokens = _TOKENS.get(kind, 1024)
    hidden, wide = _widths(module)
    # The residual stream and its copies, the widest layer's input and output twice (two guidance halves).
    inside = tokens * itemsize * (8 * hidden + 3 * wide)
    return inside + _cache(module, kind, tokens) + _workspace(module)


def module_width(module: nn.Module) -> int:
    """The most output channels of any convolution below `module`."""
    widths = [m.out_channels for m in module.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    return max(widths, default=64)


def _widths(module: nn.Module) -> tuple[int, int]:
    """(usual, widest) width of the linear layers inside blocks; vocabularies do not count."""
    vocabulary = {m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)}
    linear = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features not in vocabulary]
    if not linear:
        return (module_width(module), module_width(module))
    inputs = sorted(m.in_features for m in linear)
    widest = max(max(m.out_features, m.in_features) for m in linear)
    return (inputs[len(inputs) // 2], widest)


def _cache(module: nn.Module, kind: str, tokens: int) -> int:
    """Keys and values of a language model, and its logits."""
    if kind != "language_model":
        return 0
    config: Any = getattr(module, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers = getattr(config, "num_hidden_layers", 0) or 0
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 0) or 0
    width = getattr(config, "head_dim", None) or (
        (getattr(config, "hidden_size", 0) or 0) // max(getattr(config, "num_attention_heads", 1) or 1, 1)
    )
    vocabulary = getattr(config, "vocab_size", 0) or 0
    return int(2 * layers * heads * width * 2 * tokens + 8 * vocabulary)


def _workspace(module: nn.Module) -> int:
    """Libraries' own buffers: small next to a real model, nothing next to a toy."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    return min(64 * MIB, weights // 16)
