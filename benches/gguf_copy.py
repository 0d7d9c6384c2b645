"""The same weights as GGUF, for llama.cpp: `python gguf_copy.py MODEL_FOLDER OUT.gguf`.

Only what the benchmarks need: the architectures of Llama and Qwen3-MoE, plain rotary embedding, bf16. The
file is written tensor by tensor, so that a model larger than memory can be copied.
"""

import json
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any, Iterable, Iterator

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
ARCHITECTURES = {"llama": "llama", "qwen3_moe": "qwen3moe"}
EXPERT = re.compile(r"\.experts\.\d+\.")
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def copy(model: Path, out: Path) -> None:
    """Writes `out` from the safetensors files in `model`, completely or not at all."""
    config = json.loads((model / "config.json").read_text())
    partial = out.with_suffix(".partial")
    writer = GGUFWriter(partial, ARCHITECTURES[config["model_type"]])
    describe(writer, config)
    found = together(tensors(model))
    for name, parts in found.items():
        shape, dtype = as_stored(parts)
        size = sum(part.nbytes for part in parts) * wider(parts[0])
        writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.uint8), size, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, parts in found.items():
        writer.write_tensor_data(np.concatenate([stored(name, part, config) for part in parts]))
    writer.close()
    partial.rename(out)


def together(tensors: Iterable[tuple[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """The experts' matrices under one name, in order; everything else alone under its own."""
    found: dict[str, list[np.ndarray]] = {}
    for name, data in tensors:
        found.setdefault(EXPERT.sub(".experts.", name), []).append(data)
    return found


def describe(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """The hyperparameters, and a vocabulary of ids only."""
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(32)  # mostly bf16


def tensors(model: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor as a view of its file, in 16-bit words."""
    for file in sorted(model.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, entry in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [0])[0]):
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                sys.exit(f"{name} is {entry['dtype']}: only BF16 is copied")
            start = 8 + length + entry["data_offsets"][0]
            yield name, np.memmap(file, "<u2", "r", start, tuple(entry["shape"]))


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def wider(data: np.ndarray) -> int:
    """llama.cpp wants vectors in float32."""
    return 2 if data.ndim == 1 else 1


def as_stored(parts: list[np.ndarray]) -> tuple[list[int], GGMLQuantizationType]:
    """Shape in bytes along the last dimension, and type."""
    data = parts[0]
    if len(parts) > 1:
        return [len(parts), *data.shape[:-1], data.shape[-1] * 2], GGMLQuantizationType.BF16
    kind = GGMLQuantizationType.F32 if data.ndim == 1 else GGMLQuantizationType.BF16
    return [*data.shape[:-1], data.shape[-1] * 2 * wider(data)], kind


def stored(name: str, data: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """The values as llama.cpp wants them."""
    if data.ndim == 1:
        return (data.astype("<u4") << 16).view("<f4")
    if config["model_type"] != "llama":
        return np.ascontiguousarray(data)
    if name.endswith("q_proj.weight"):
        return interleaved(data, config["num_attention_heads"])
    if name.endswith("k_proj.weight"):
        return interleaved(data, config["num_key_value_heads"])
    return np.ascontiguousarray(data)


def interleaved(data: np.ndarray, heads: int) -> np.ndarray:
    """Rows reordered from halves (transformers' rotary layout) to pairs (llama.cpp's)."""
    rows, columns = data.shape
    halves = data.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


if __name__ == "__main__":
    copy(Path(sys.argv[1]), Path(sys.argv[2]))
    os.sync()
