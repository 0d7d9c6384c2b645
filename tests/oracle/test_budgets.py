"""A budget changes neither tokens nor log-probabilities, is kept, and is used."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
UNITS = {"KiB": 1 << 10, "MiB": MIB, "GiB": 1 << 30}
PROMPT = "Once upon a time"
TOKENS = [(7 * n * n + 3 * n + 1) % 250 for n in range(70)]
MODELS = {
    "llama-bf16": ("llama", "60M", "bf16"),
    "qwen3-f32": ("qwen3", "30M", "f32"),
    "gemma2-f16": ("gemma2", "60M", "f16"),
}


@pytest.fixture(scope="module", params=MODELS, ids=str)
def model(request, overflowml, tmp_path_factory) -> Path:
    """A random-weight model of 120 MB."""
    arch, params, dtype = MODELS[request.param]
    folder = tmp_path_factory.mktemp("models") / request.param
    made = overflowml.run("synth", folder, "--arch", arch, "--params", params, "--dtype", dtype, "--seed", 3)
    assert made.code == 0, made.stderr
    return folder


def weights_of(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def smallest(overflowml, *arguments: Any) -> int:
    """The budget that the refusal of an impossible one names."""
    refused = overflowml.run(*arguments, "--memory", "1MiB")
    assert refused.code == 1, refused.stderr
    assert refused.stdout == ""
    named = re.findall(r"--memory[ =](\d+(?:\.\d+)?) ?(KiB|MiB|GiB)", refused.stderr)
    assert named, f"no budget that works is named: {refused.stderr}"
    return max(int(float(number) * UNITS[unit]) for number, unit in named)


def budgets(overflowml, model: Path, *arguments: Any) -> list[int]:
    """From the smallest that works to one that holds everything."""
    least = smallest(overflowml, *arguments)
    weights = weights_of(model)
    assert least < weights / 2, f"{least} is no use for {weights} bytes of weights"
    return [least, *(least + weights * share // 100 for share in (3, 20, 45, 70, 90, 96, 150))]


def test_log_probabilities_are_the_same_bits_under_any_budget(overflowml, model):
    free = overflowml.score(model, TOKENS)
    assert free["io"]["streamed_bytes"] == 0
    arguments = ("score", model, "--tokens", ",".join(map(str, TOKENS)))
    streamed = 0
    for budget in budgets(overflowml, model, *arguments):
        report = overflowml.score(model, TOKENS, "--memory", budget)
        assert report["logprobs"] == free["logprobs"], budget
        assert report["memory"]["peak_rss_bytes"] <= budget
        streamed += report["io"]["streamed_bytes"] > 0
    assert streamed >= 5, "most of these budgets are below the model's size"


def test_tokens_are_the_same_under_any_budget_and_the_budget_is_kept(overflowml, model):
    free = overflowml.generate(model, PROMPT, 10)
    arguments = ("run", model, "--prompt", PROMPT, "--max-new-tokens", 10)
    for budget in budgets(overflowml, model, *arguments):
        report = overflowml.generate(model, PROMPT, 10, "--memory", budget)
        assert report["tokens"] == free["tokens"], budget
        assert report["text"] == free["text"]
        memory = report["memory"]
        assert memory["budget_bytes"] == budget
        assert memory["peak_rss_bytes"] <= budget
        assert memory["predicted_peak_bytes"] <= budget


def test_a_token_reads_what_does_not_fit_and_no_more(overflowml, model):
    arguments = ("run", model, "--prompt", PROMPT, "--max-new-tokens", 16, "--context", 64)
    for budget in budgets(overflowml, model, *arguments)[:-1]:
        report = overflowml.generate(model, PROMPT, 16, "--memory", budget, "--context", 64)
        io, ring = report["io"], report["plan"]["ring"]
        if not ring:
            continue  # only the embedding is left on disk
        missing = report["plan"]["prediction"]["weights_per_pass_bytes"] - report["memory"]["resident_weights_bytes"]
        assert missing > 0
        # Direct reads take whole sectors of 4 KiB at both ends of a block, which counts where blocks are small.
        share = max(1.02, 1 + 8192 / ring["slot_bytes"])
        streamed = io["streamed_bytes"]
        if report["stopped_by"] != "length":
            streamed -= ring["slots"] * ring["slot_bytes"]  # read ahead for a token that was not made
        assert streamed <= share * missing * io["passes"]
        assert io["loaded_bytes"] <= share * report["memory"]["resident_weights_bytes"]
        assert io["looked_up_bytes"] <= 8192 * (report["prompt_tokens"] + 16), "rows of the embedding"
        assert io["bytes_read"] == io["streamed_bytes"] + io["loaded_bytes"] + io["looked_up_bytes"]


def test_a_budget_is_used(overflowml, model):
    """At least 92 % of what remains beside cache, slots and activations holds weights."""
    weights = weights_of(model)
    for share in (50, 75):
        budget = weights * share // 100
        report = overflowml.generate(model, PROMPT, 2, "--memory", budget)
        terms = report["plan"]["memory"]
        others = sum(terms[name] for name in ("kv_bytes", "slots_bytes", "activations_bytes", "overhead_bytes"))
        others += 4 * MIB  # left for what the system holds on the process's behalf
        assert report["memory"]["resident_weights_bytes"] >= 0.92 * (budget - others)
        assert terms["peak_bytes"] == pytest.approx(report["memory"]["peak_rss_bytes"], rel=0.05, abs=4 * MIB)


def test_a_budget_of_the_whole_model_streams_nothing(overflowml, model):
    report = overflowml.generate(model, PROMPT, 4)
    assert report["io"]["streamed_bytes"] == 0
    assert report["plan"]["strategy"] == "none"
    assert report["plan"]["ring"] is None


def test_reading_through_the_page_cache_gives_the_same(overflowml, model):
    budget = weights_of(model) // 2
    free = overflowml.generate(model, PROMPT, 6)
    buffered = overflowml.generate(model, PROMPT, 6, "--memory", budget, "--no-direct-io")
    assert buffered["tokens"] == free["tokens"]
    assert buffered["io"]["direct"] is False
    assert buffered["memory"]["peak_rss_bytes"] <= budget


def test_a_run_survives_a_hard_limit_of_its_budget(overflowml, model, memcap):
    """The kernel's limit counts page cache too, and kills whoever exceeds it."""
    free = overflowml.generate(model, PROMPT, 6)
    for share in (45, 80):
        budget = weights_of(model) * share // 100
        drop_from_cache(model)
        report = overflowml.generate(model, PROMPT, 6, "--memory", budget, before=memcap(budget))
        assert report["tokens"] == free["tokens"]
        assert report["io"]["streamed_bytes"] > 0


def test_the_hard_limit_is_a_limit(overflowml, model, memcap):
    """Guards the test above: without its budget, the same run is killed."""
    limit = weights_of(model) * 45 // 100
    words = ("run", model, "--prompt", PROMPT, "--max-new-tokens", 2, "--temperature", 0)
    over = overflowml.run(*words, "--memory", weights_of(model) * 2, before=memcap(limit))
    assert over.code != 0


def drop_from_cache(model: Path) -> None:
    for file in model.glob("*.safetensors"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_plan_says_what_the_run_then_does(overflowml, model):
    budget = weights_of(model) * 6 // 10
    planned = overflowml.json("plan", model, "--memory", budget, "--prompt-tokens", 16, "--max-new-tokens", 4)
    ran = overflowml.generate(model, PROMPT, 4, "--memory", budget)
    planned = planned.get("plan", planned)
    assert planned["ring"] == ran["plan"]["ring"], json.dumps(planned)
    assert planned["memory"]["resident_bytes"] == pytest.approx(
        ran["plan"]["memory"]["resident_bytes"], abs=3 * MIB  # the process itself differs a little every time
    )
