"""The oracle: transformers, on models that are made on the spot."""

import json
import zlib
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from models import Case

# Large enough for every mechanism to show in the result, small enough for the logits to stay of
# order one, as in trained models.
GAIN = 0.9


def config_of(case: Case, **changed: Any) -> Any:
    """The configuration object of a case."""
    kind = getattr(transformers, f"{case.family}Config")
    return kind(**json.loads(json.dumps({**case.config, **changed})))


def make(case: Case, **changed: Any) -> Any:
    """The seeded float32 model of a case, in evaluation mode."""
    prefix = case.family.removesuffix("Text")
    kind = getattr(transformers, f"{prefix}ForCausalLM")
    experts = {"experts_implementation": "eager"} if "num_experts_per_tok" in case.config else {}
    model = kind._from_config(config_of(case, **changed), attn_implementation="eager", **experts)
    generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_values(name, parameter, case.family, generator))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(_values(name, buffer, case.family, generator))
    return model.eval()


def _values(name: str, parameter: Any, family: str, generator: torch.Generator) -> Any:
    noise = torch.randn(parameter.shape, generator=generator)
    if name.endswith("bias"):
        return 0.3 * noise
    if parameter.dim() == 1:
        return 0.2 * noise + (0.0 if family.startswith("Gemma") else 1.0)
    # Experts are stacked, as `[out, in]` but for those of gpt-oss.
    inputs = parameter.shape[1 if parameter.dim() == 2 or family == "GptOss" else 2]
    return GAIN * noise / inputs**0.5


def rounded(model: Any, dtype: torch.dtype) -> Any:
    """The model with weights that `dtype` can hold, still computing in float32."""
    return model.to(dtype).to(torch.float32)


def save(model: Any, case: Case, dtype: torch.dtype, folder: Path) -> Path:
    """Writes the model as transformers does, with a byte-level tokenizer beside it."""
    limit = {"max_shard_size": case.shard} if case.shard else {}
    model.to(dtype).save_pretrained(folder, **limit)
    model.to(torch.float32)
    if case.shard:
        assert len(list(folder.glob("*.safetensors"))) > 1, "the case asks for several files"
    if case.legacy:
        _as_written_by_transformers_4(folder / "config.json")
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def tokenizer() -> Tokenizer:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def _as_written_by_transformers_4(file: Path) -> None:
    """`rope_theta`, `rope_scaling` and `torch_dtype` at the top, no `layer_types`."""
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    if "sliding_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 6
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if "original_max_position_embeddings" in rope and config["model_type"] == "phi3":
        config["original_max_position_embeddings"] = rope.pop("original_max_position_embeddings")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    file.write_text(json.dumps(config))


def tokens_of(case: Case) -> list[int]:
    """A seeded text of the case's length."""
    generator = torch.Generator().manual_seed(1 + zlib.crc32(str(case).encode()))
    return torch.randint(case.config["vocab_size"], (case.length,), generator=generator).tolist()


def logprobs(model: Any, tokens: list[int]) -> torch.Tensor:
    """The log-probability of each token after the first."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits.float()
    return torch.log_softmax(logits[0, :-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """What `generate` continues `prompt` with."""
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        made = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return made[0, len(prompt) :].tolist()
