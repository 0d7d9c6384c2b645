"""Mixtures of experts: four-bit experts as published, and the same numbers whatever is kept in memory."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import reference
from mixtures import CASES, mixture

MIB = 1 << 20
PROMPT = "It was a bright cold day in April, and the clocks were striking thirteen."
NUMBERS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
NUMBERS = torch.cat([NUMBERS, -NUMBERS])


def in_blocks(rows: int, cols: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A random `[rows, cols]` matrix as blocks of four-bit numbers, their powers of two, and as plain numbers."""
    nibbles = torch.randint(16, (rows, cols), generator=generator, dtype=torch.uint8)
    powers = torch.randint(121, 125, (rows, cols // 32), generator=generator, dtype=torch.uint8)
    pairs = nibbles.reshape(rows, cols // 32, 16, 2)
    plain = NUMBERS[nibbles.long()] * torch.exp2(powers.float() - 127).repeat_interleave(32, dim=1)
    return pairs[..., 0] | pairs[..., 1] << 4, powers, plain


@pytest.mark.parametrize("experts", [3, 5])
def test_gpt_oss_with_four_bit_experts_gives_transformers_numbers(experts, overflowml, tmp_path):
    case = mixture("GptOss", f"mxfp4-{experts}", hidden_size=64, intermediate_size=96, num_local_experts=experts)
    model = reference.make(case)
    generator = torch.Generator().manual_seed(experts)
    stored = {}
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            for name in ("gate_up_proj", "down_proj"):
                weight = getattr(layer.mlp.experts, name)
                made = [in_blocks(weight.shape[2], weight.shape[1], generator) for _ in range(experts)]
                prefix = f"model.layers.{index}.mlp.experts.{name}"
                stored[f"{prefix}_blocks"] = torch.stack([blocks for blocks, _, _ in made])
                stored[f"{prefix}_scales"] = torch.stack([powers for _, powers, _ in made])
                weight.copy_(torch.stack([plain.T for _, _, plain in made]))
    folder = reference.save(model, case, torch.float32, tmp_path)
    file = folder / "model.safetensors"
    plain = {name: data for name, data in load_file(file).items() if not name.endswith("_proj") or "experts" not in name}
    save_file({**plain, **stored}, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = reference.tokens_of(case)
    report = overflowml.score(folder, tokens)
    expected = reference.logprobs(model, tokens)
    assert (torch.tensor(report["logprobs"]) - expected).abs().max() <= 2e-3


@pytest.fixture(scope="module", params=["qwen3_moe", "gpt_oss", "deepseek_v3"])
def model(request, overflowml, tmp_path_factory):
    """A mixture of some 50 MiB."""
    folder = tmp_path_factory.mktemp(request.param)
    made = overflowml.run("synth", folder / "model", "--arch", request.param, "--params", "24M", "--seed", 3)
    assert made.code == 0, made.stderr
    return folder / "model"


def test_what_is_kept_changes_nothing_but_what_is_read(model, overflowml):
    sampled = ("run", model, "--prompt", PROMPT, "--temperature", 1, "--seed", 4, "--max-new-tokens", 12, "--ignore-eos")
    free = overflowml.json(*sampled)
    assert free["io"]["experts"] is None, "everything fits"
    scored = overflowml.json("score", model, "--tokens", "1,2,3,200,7,90,14,33,8")
    seen = []
    for budget in (28, 36, 44, 56):
        report = overflowml.json(*sampled, "--memory", budget * MIB)
        assert report["tokens"] == free["tokens"]
        assert report["memory"]["peak_rss_bytes"] <= budget * MIB
        again = overflowml.json("score", model, "--tokens", "1,2,3,200,7,90,14,33,8", "--memory", budget * MIB)
        assert again["logprobs"] == scored["logprobs"], "the same bits"
        experts = report["io"]["experts"]
        if experts is None:
            continue
        # Direct reads take whole sectors of 4 KiB at both ends of a piece, which counts where pieces are small.
        share = max(1.05, 1 + 8192 / report["plan"]["experts"]["slot_bytes"])
        assert experts["read_bytes"] <= share * experts["missed_bytes"]
        assert experts["hit_rate"] == pytest.approx(1 - experts["missed_bytes"] / experts["used_bytes"])
        predicted = report["plan"]["prediction"]["experts"]
        assert predicted["low"]["hit_rate"] <= predicted["expected"]["hit_rate"] <= predicted["high"]["hit_rate"] <= 1
        seen.append(experts["missed_bytes"])
    assert len(seen) >= 2 and seen == sorted(seen, reverse=True), "a larger cache misses less"


def test_a_prompt_reads_each_expert_at_most_once_per_chunk(overflowml, tmp_path):
    made = overflowml.run("synth", tmp_path / "model", "--arch", "mixtral", "--params", "24M", "--seed", 3)
    assert made.code == 0, made.stderr
    report = overflowml.json("score", tmp_path / "model", "--tokens", ",".join(map(str, range(64))), "--memory", 30 * MIB)
    chunks = -(-63 // report["plan"]["prefill_chunk"])
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    matrices = 3 * config["hidden_size"] * config["intermediate_size"] * config["num_local_experts"]
    everything = 2 * matrices * config["num_hidden_layers"]
    assert 0 < report["io"]["experts"]["used_bytes"] <= chunks * everything


def test_experts_are_groups(overflowml, tmp_path):
    case = next(case for case in CASES if case.family == "Qwen3Moe")
    folder = reference.save(reference.make(case), case, torch.float32, tmp_path)
    report = overflowml.json("inspect", folder)
    names = [group["name"] for group in report["groups"]]
    assert "model.layers.2.mlp.experts.7" in names
    assert report["runnable"]
    experts = report["decoder"]["experts"]
    assert (experts["count"], experts["active"], experts["storage"]) == (8, 3, "each")
