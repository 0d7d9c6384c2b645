"""Sizes from configurations alone are those of the models that transformers and diffusers create."""

import json
from pathlib import Path
from typing import Any

import diffusers
import gguf
import numpy
import pytest
import torch
import transformers

from profile_models import DIFFUSERS, PIPELINES, TRANSFORMERS, Case


def make(case: Case, folder: Path, device: str = "meta") -> Any:
    """The model, without weights unless `device` is real; its configuration is written to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(transformers, case.kind, None)
    if kind is None:
        with torch.device(device):
            model = getattr(diffusers, case.kind)(**case.config)
        model.save_config(folder)
        return model
    config = kind.config_class(**json.loads(json.dumps(case.config)))
    with torch.device(device):
        model = kind._from_config(config)
    config.architectures = [case.kind]
    config.save_pretrained(folder)
    return model


def parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("case", TRANSFORMERS + DIFFUSERS, ids=str)
def test_a_configuration_alone_tells_how_many_parameters_there_are(case: Case, overflowml, tmp_path):
    model = make(case, tmp_path)
    report = overflowml.json("inspect", tmp_path)
    assert report["source"] == "config"
    assert report["architecture"] == case.kind
    assert report["parameters"] == parameters(model)
    assert report["components"][0]["shape"]["kind"] != "unknown"
    assert "configuration" in overflowml.run("inspect", tmp_path).stdout


SMALL = [case for case in TRANSFORMERS if case.config.get("vocab_size") == 259 and "ForCausalLM" in case.kind]


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_saved_weights_tell_the_same_as_their_configuration(case: Case, overflowml, tmp_path):
    model = make(case, tmp_path / "config", "cpu")
    model.save_pretrained(tmp_path / "weights")
    alone = overflowml.json("inspect", tmp_path / "config")
    saved = overflowml.json("inspect", tmp_path / "weights")
    assert saved["source"] == "headers"
    assert saved["parameters"] == alone["parameters"]
    assert saved["components"][0]["caches"] == alone["components"][0]["caches"]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_component_of_a_pipeline_is_counted_in_order_of_use(name, overflowml, tmp_path):
    kind, components, order = PIPELINES[name]
    index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": diffusers.__version__}
    index |= {"scheduler": ["diffusers", "EulerDiscreteScheduler"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    expected = {}
    for part, case in components.items():
        expected[part] = parameters(make(case, tmp_path / part))
        library = "transformers" if hasattr(transformers, case.kind) else "diffusers"
        index[part] = [library, case.kind]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    report = overflowml.json("inspect", tmp_path)
    found = {part["name"]: sum(g["parameters"] for g in part["groups"]) for part in report["components"]}
    assert found == expected
    assert [part["name"] for part in report["components"]] == order
    assert report["parameters"] == sum(expected.values())
    assert report["task"] == ("video" if name == "wan" else "image")
    assert [stage["name"] for stage in report["stages"]] == ["encode", "denoise", "decode"]


def test_saved_components_are_read_from_their_own_files_and_variants_count_once(overflowml, tmp_path):
    case = Case("AutoencoderKL", "tiny", {})
    model = make(case, tmp_path / "vae", "cpu")
    model.save_pretrained(tmp_path / "vae")
    model.half().save_pretrained(tmp_path / "vae", variant="fp16")
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    report = overflowml.json("inspect", tmp_path)
    assert report["source"] == "headers"
    assert report["parameters"] == parameters(model)
    assert report["weights_bytes"] == 4 * parameters(model)
    assert any("fp16" in note for note in report["notes"])


CACHED = [
    case
    for case in TRANSFORMERS
    if str(case) in {
        "LlamaForCausalLM-plain", "Qwen3ForCausalLM-plain", "Phi3ForCausalLM-fused", "Gemma2ForCausalLM-plain",
        "Gemma3ForCausalLM-plain", "MixtralForCausalLM-plain", "Qwen3MoeForCausalLM-plain", "GptOssForCausalLM-plain",
        "Qwen3NextForCausalLM-plain", "Qwen3_5ForCausalLM-dense",
    }
]


@pytest.mark.parametrize("case", CACHED, ids=str)
def test_caches_are_as_large_as_those_of_transformers(case: Case, overflowml, tmp_path):
    model = make(case, tmp_path, "cpu").eval()
    tokens = 30
    with torch.no_grad():
        cache = model(torch.ones((1, tokens), dtype=torch.long), use_cache=True).past_key_values
    ours = overflowml.json("inspect", tmp_path)["components"][0]["caches"]
    assert len(ours) == len(cache.layers) == case.config["num_hidden_layers"]
    for layer, theirs in zip(ours, cache.layers, strict=True):
        if layer["kind"] == "state":
            recurrent = theirs.recurrent_states
            recurrent = recurrent[0] if isinstance(recurrent, (list, tuple, dict)) else recurrent
            convolution = theirs.conv_states
            convolution = convolution[0] if isinstance(convolution, (list, tuple, dict)) else convolution
            # They keep one more input of the convolution than it needs.
            latest = convolution.numel() // convolution.shape[-1] * (model.config.linear_conv_kernel_dim - 1)
            assert layer["elements"] == recurrent.numel() + latest
            continue
        width = layer["heads"] * (layer["key"] + layer["value"])
        # A window includes the token that looks through it; they keep those before it.
        kept = min(tokens, layer["window"] - 1) if layer["kind"] == "window" else tokens
        assert theirs.keys.numel() + theirs.values.numel() == width * kept


def test_enough_is_compared():
    assert len(TRANSFORMERS) + len(DIFFUSERS) >= 40


def gguf_file(path: Path, tensors: dict[str, tuple[gguf.GGMLQuantizationType, tuple[int, ...]]], **split: int) -> Path:
    """A file (or several) of zeros as llama.cpp's own writer makes it."""
    writer = gguf.GGUFWriter(path, "llama", **split)
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv([2, 1])
    writer.add_context_length(100)
    writer.add_token_list(["a", "b", "c"])
    for name, (kind, shape) in tensors.items():
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, numpy.zeros(shape, numpy.float32))
            continue
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows = numpy.zeros((*shape[:-1], shape[-1] // block * size), numpy.uint8)
        writer.add_tensor(name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# Only ever made while computing, never stored; the package and ggml disagree about its size.
STORED = [kind for kind in gguf.GGMLQuantizationType if kind.name != "Q8_1"]


def test_every_type_of_ggml_takes_the_bytes_that_its_own_writer_writes(overflowml, tmp_path):
    tensors = {f"blk.0.{kind.name}.weight": (kind, (3, 512)) for kind in STORED}
    report = overflowml.json("inspect", gguf_file(tmp_path / "types.gguf", tensors))
    expected = {}
    for kind in STORED:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        expected[kind.name.lower()] = 3 * 512 // block * size
    assert report["by_dtype_bytes"] == expected
    assert report["parameters"] == 3 * 512 * len(STORED)


def test_a_split_gguf_model_is_read_whole_from_any_part(overflowml, tmp_path):
    kind = gguf.GGMLQuantizationType.Q4_K
    tensors = {f"blk.{layer}.ffn_up_exps.weight": (kind, (4, 8, 256)) for layer in range(2)}
    tensors["token_embd.weight"] = (gguf.GGMLQuantizationType.F32, (3, 256))
    gguf_file(tmp_path / "m.gguf", tensors, split_max_tensors=1)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3
    reports = [overflowml.json("inspect", part) for part in [*parts, tmp_path]]
    for report in reports:
        assert report["files"] == 3
        assert report["parameters"] == 2 * 4 * 8 * 256 + 3 * 256
        assert report["components"] == reports[0]["components"]
        assert not report["runnable"]
    caches = reports[0]["components"][0]["caches"]
    assert [cache["heads"] for cache in caches] == [2, 1]
    # 64 wide heads, keys and values, two bytes, 100 tokens.
    assert reports[0]["kv_at_max_context_bytes"] == 3 * 2 * 64 * 2 * 100
    parts[1].unlink()
    missing = overflowml.run("inspect", parts[0])
    assert missing.code == 2
    assert parts[1].name in missing.stderr
