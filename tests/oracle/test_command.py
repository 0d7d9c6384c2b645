"""The command's manners: streams, exit codes, broken input, a closed pipe."""

import json
import math
import struct
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

import reference
from models import CASES

CASE = next(case for case in CASES if case.shard)
COMMANDS = ["detect", "inspect", "plan", "run", "score", "synth", "demo", "bench", "doctor"]
FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3", "Phi3", "Gemma2", "Gemma3", "SmolLM3", "Olmo2", "Granite"]
FAMILIES += ["Mixtral", "Qwen2Moe", "Qwen3Moe", "Olmoe", "GptOss", "DeepseekV2", "DeepseekV3"]


@pytest.fixture
def model(tmp_path) -> Path:
    """A sound model in several files."""
    return reference.save(reference.make(CASE), CASE, torch.float32, tmp_path / "model")


def shards(model: Path) -> list[Path]:
    return sorted(model.glob("*.safetensors"))


def with_header(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites the header of a safetensors file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def first_tensor(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in header.items() if name != "__metadata__")


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def cut(model: Path) -> Path:
    file = shards(model)[1]
    file.write_bytes(file.read_bytes()[:-1])
    return file


def cut_in_the_header(model: Path) -> Path:
    file = shards(model)[0]
    file.write_bytes(file.read_bytes()[:40])
    return file


def huge_header(model: Path) -> Path:
    file = shards(model)[0]
    file.write_bytes(struct.pack("<Q", 1 << 62) + file.read_bytes()[8:])
    return file


def shape_of_another_size(model: Path) -> Path:
    file = shards(model)[0]
    with_header(file, lambda header: first_tensor(header).update(shape=[3, 5]))
    return file


def unknown_dtype(model: Path) -> Path:
    file = shards(model)[0]
    with_header(file, lambda header: first_tensor(header).update(dtype="F13"))
    return file


def offsets_outside(model: Path) -> Path:
    file = shards(model)[0]
    with_header(file, lambda header: first_tensor(header).update(data_offsets=[1 << 40, 1 << 41]))
    return file


def missing_shard(model: Path) -> Path:
    file = shards(model)[2]
    file.unlink()
    return file


def shard_is_a_folder(model: Path) -> Path:
    file = missing_shard(model)
    file.mkdir()
    return file


def index_without_a_tensor(model: Path) -> Path:
    file = model / "model.safetensors.index.json"
    edit(file, lambda index: index["weight_map"].pop("model.norm.weight"))
    return file


def config_is_no_json(model: Path) -> Path:
    file = model / "config.json"
    file.write_text('{"architectures": [')
    return file


def config_without_sizes(model: Path) -> Path:
    file = model / "config.json"
    edit(file, lambda config: config.pop("hidden_size"))
    return file


def no_config(model: Path) -> Path:
    file = model / "config.json"
    file.unlink()
    return file


def symlink_loop(model: Path) -> Path:
    file = shards(model)[0]
    file.unlink()
    file.symlink_to(file)
    return file


BROKEN = [
    cut,
    cut_in_the_header,
    huge_header,
    shape_of_another_size,
    unknown_dtype,
    offsets_outside,
    missing_shard,
    shard_is_a_folder,
    config_is_no_json,
    config_without_sizes,
    no_config,
    symlink_loop,
]


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_model_is_a_clear_error(damage, model, overflowml):
    file = damage(model)
    done = overflowml.run("score", model, "--tokens", "1,2,3", "--json")
    assert done.code == 2, done.stderr
    assert done.stdout == ""
    assert file.name in done.stderr
    assert "panicked" not in done.stderr


def test_a_tensor_that_no_file_holds_is_named(model, overflowml):
    index_without_a_tensor(model)
    for file in shards(model):
        with_header(file, lambda header: rename(header, "model.norm.weight", "model.other.weight"))
    done = overflowml.run("score", model, "--tokens", "1,2,3")
    assert done.code == 2
    assert "model.norm.weight" in done.stderr or "model.other.weight" in done.stderr


def rename(header: dict[str, Any], old: str, new: str) -> None:
    if old in header:
        header[new] = header.pop(old)


def test_an_unsupported_architecture_names_itself_and_the_supported_ones(model, overflowml):
    edit(model / "config.json", lambda c: c.update(architectures=["MambaForCausalLM"], model_type="mamba"))
    done = overflowml.run("score", model, "--tokens", "1,2,3")
    assert done.code == 2
    assert "MambaForCausalLM" in done.stderr
    for family in FAMILIES:
        assert f"{family}ForCausalLM" in done.stderr


@pytest.mark.parametrize("tokens", ["259", "4294967295"])
def test_a_token_outside_the_vocabulary_is_refused(tokens, model, overflowml):
    done = overflowml.run("score", model, "--tokens", f"1,{tokens},2")
    assert done.code == 2
    assert tokens in done.stderr
    assert "panicked" not in done.stderr


def test_a_text_too_short_to_score_is_refused(model, overflowml):
    assert overflowml.run("score", model, "--tokens", "1").code == 2


def test_a_path_that_does_not_exist_is_named(overflowml, tmp_path):
    done = overflowml.run("inspect", tmp_path / "nothing-here")
    assert done.code == 2
    assert "nothing-here" in done.stderr


def test_help_and_version_are_answers(overflowml):
    text = overflowml.run("--help")
    assert text.code == 0
    assert text.stderr == ""
    for name in COMMANDS:
        assert name in text.stdout
        assert overflowml.run(name, "--help").code == 0
    assert overflowml.run("--version").stdout.startswith("overflowml ")


@pytest.mark.parametrize("words", [[], ["nonsense"], ["run"], ["score", "x", "--tokens", "a"], ["--memory", "4GiB"]])
def test_bad_usage_is_exit_2_on_stderr(words, overflowml):
    done = overflowml.run(*words)
    assert done.code == 2
    assert done.stdout == ""
    assert "Usage" in done.stderr or "error" in done.stderr


def test_a_size_that_is_none_is_refused(model, overflowml):
    done = overflowml.run("score", model, "--tokens", "1,2", "--memory", "lots")
    assert done.code == 2
    assert "lots" in done.stderr


def test_a_closed_pipe_is_not_an_error(model, overflowml):
    words = [str(overflowml.binary), "inspect", str(model), "--json"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=overflowml.environment()
    ) as process:
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(30) in (0, -13)
    assert said == b""


def test_a_text_is_scored_as_its_tokens_are(model, overflowml, tmp_path):
    text = "To be, or not to be: that is the question.\n"
    file = tmp_path / "text.txt"
    file.write_text(text)
    tokens = reference.tokenizer().encode(text).ids
    by_text = overflowml.json("score", model, "--text", file)
    by_tokens = overflowml.score(model, tokens)
    assert by_text["tokens"] == tokens
    assert by_text["logprobs"] == by_tokens["logprobs"]
    assert len(by_text["logprobs"]) == len(tokens) - 1
    assert by_text["perplexity"] == pytest.approx(math.exp(-sum(by_text["logprobs"]) / (len(tokens) - 1)))


def test_the_text_is_what_the_tokenizer_makes_of_the_tokens(model, overflowml):
    report = overflowml.generate(model, "Hello", 24)
    printed = overflowml.run("run", model, "--prompt", "Hello", "--temperature", 0, "--max-new-tokens", 24)
    assert report["text"] == reference.tokenizer().decode(report["tokens"])
    assert printed.code == 0
    assert printed.stdout == report["text"] + "\n"
    assert printed.stderr == "", "nobody watches: no status line"


def test_a_seed_repeats_a_sampled_text_and_another_changes_it(model, overflowml):
    def sampled(seed: int) -> list[int]:
        words = ("--temperature", 1.5, "--seed", seed, "--max-new-tokens", 24, "--top-k", 50, "--top-p", 0.95)
        return overflowml.json("run", model, "--prompt", "Hello", *words)["tokens"]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_generation_stops_at_the_models_end_of_text(model, overflowml):
    free = overflowml.generate(model, "Hello", 16)["tokens"]
    last = free[5]
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [last]}))
    stopped = overflowml.generate(model, "Hello", 16)
    until = free[: free.index(last)]
    assert stopped["tokens"][: len(until)] == until
    assert len(stopped["tokens"]) <= len(until) + 1
    assert stopped["stopped_by"] == "end_of_text"
    assert overflowml.generate(model, "Hello", 16, "--ignore-eos")["tokens"] == free


def test_a_run_fits_the_contract(model, overflowml):
    report = overflowml.generate(model, "Hello", 3)
    assert {"text", "tokens", "prompt_tokens", "timings", "memory", "io", "plan"} <= report.keys()
    assert {
        "load_seconds",
        "prefill_seconds",
        "decode_seconds",
        "decode_tokens_per_second",
        "predicted_tokens_per_second",
    } <= report["timings"].keys()
    assert {"budget_bytes", "predicted_peak_bytes", "peak_rss_bytes"} <= report["memory"].keys()
    assert {"bytes_read", "read_bytes_per_second", "stall_seconds"} <= report["io"].keys()


def test_inspect_counts_what_transformers_counts(model, overflowml):
    report = overflowml.json("inspect", model)
    text = json.dumps(report)
    parameters = sum(p.numel() for p in reference.make(CASE).parameters())
    assert str(parameters) in text
    assert "LlamaForCausalLM" in text


def test_synth_repeats_its_bytes(overflowml, tmp_path):
    for name in ("a", "b"):
        made = overflowml.run("synth", tmp_path / name, "--params", "1M", "--seed", 5)
        assert made.code == 0, made.stderr
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
