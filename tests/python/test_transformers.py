"""transformers models give the same bits whatever memory they are allowed: on a device, from disk, and after `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import overflowml
import pytest
import tiny_transformers as tiny
import torch
from overflowml.engine.simulated import SimulatedDevice
from overflowml.engine.stacks import module_bytes

SHARES = (0.3, 0.6, 0.85, 2.0)


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_the_same_bits_on_a_device_of_any_size(name: str) -> None:
    model = tiny.make(name)
    expected, total = tiny.run(name, model), module_bytes(model)
    before = {key: (parameter, parameter.clone()) for key, parameter in model.named_parameters()}
    fitted = 0
    for share in SHARES:
        device = SimulatedDevice(3 * total)
        try:
            overflowml.optimize_model(model, device=device, vram=int(share * total), activations=0)
        except overflowml.Infeasible:
            continue
        fitted += 1
        for _ in range(2):
            assert_same(tiny.run(name, model), expected)
        assert device.peak() <= share * total
        assert device.traffic.from_device_bytes == device.traffic.host_blocks == 0
        overflowml.restore(model)
        assert_same(tiny.run(name, model), expected)
        for key, parameter in model.named_parameters():
            assert parameter is before[key][0] and torch.equal(parameter, before[key][1])
    assert fitted >= 2 or name in ("convnext", "albert")


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_the_same_bits_from_disk_in_any_memory(name: str, tmp_path: Path) -> None:
    model = tiny.make(name)
    expected, total = tiny.run(name, model), module_bytes(model)
    model.save_pretrained(tmp_path)
    fitted = 0
    for share in SHARES:
        try:
            loaded = load(tmp_path, type(model), ram=int(share * total))
        except overflowml.Infeasible:
            continue
        fitted += 1
        for _ in range(2):
            assert_same(tiny.run(name, loaded), expected)
    assert fitted >= 2 or name in ("convnext", "albert")


@pytest.mark.parametrize("name", ["llama", "t5", "mixtral"])
def test_the_same_bits_from_disk_on_a_device(name: str, tmp_path: Path) -> None:
    model = tiny.make(name)
    expected, total = tiny.run(name, model), module_bytes(model)
    model.save_pretrained(tmp_path)
    for share in (0.85, 2.0):
        device = SimulatedDevice(3 * total)
        loaded = load(tmp_path, type(model), vram=int(share * total), device=device)
        for _ in range(2):
            assert_same(tiny.run(name, loaded), expected)
        assert device.peak() <= share * total


def test_another_dtype_is_made_on_use_and_is_what_transformers_makes(tmp_path: Path) -> None:
    model = tiny.make("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    cast = type(model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = tiny.run("llama", cast)
    loaded = load(tmp_path, type(model), ram=module_bytes(cast) * 9 // 10, dtype=torch.float32)
    assert overflowml.strategy_of(loaded).offload == "disk"
    assert_same(tiny.run("llama", loaded), expected)


def test_generation_is_the_same_from_disk(llama: Any, tmp_path: Path) -> None:
    prompt = tiny.ids()
    expected = llama.generate(prompt, max_new_tokens=6, do_sample=False)
    llama.save_pretrained(tmp_path)
    loaded = load(tmp_path, type(llama), ram=module_bytes(llama) * 3 // 4)
    assert torch.equal(loaded.generate(prompt, max_new_tokens=6, do_sample=False), expected)


def load(folder: Path, kind: Any, **arguments: Any) -> Any:
    arguments.setdefault("device", "cpu")
    return overflowml.load_model(str(folder), tokenizer=False, model_class=kind, activations=0, **arguments)
