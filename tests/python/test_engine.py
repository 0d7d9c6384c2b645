"""The engine under a torch module, on a device that is not there: what it moves, what it waits for, what happens when it fails."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import overflowml
import pytest
import torch
from overflowml.engine.ring import Ring, spread
from overflowml.engine.simulated import Faults, SimulatedDevice
from overflowml.engine.stacks import dissect, module_bytes
from torch import nn

PASSES = 4


class Layers(nn.Module):
    """Equal blocks between an input and an output layer, in an order that can be changed."""

    def __init__(self, count: int = 8, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, width)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(count))
        self.last = nn.Linear(width, 8)
        self.order = list(range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for index in self.order:
            x = self.layers[index](x)
        return self.last(x)


INPUT = torch.linspace(-1, 1, 16).reshape(2, 8)


def optimised(model: nn.Module, share: float = 0.6, **device: Any) -> tuple[SimulatedDevice, overflowml.Strategy]:
    total = module_bytes(model)
    simulated = SimulatedDevice(2 * total, **device)
    return simulated, overflowml.optimize_model(model, device=simulated, vram=int(share * total), activations=0)


def run(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(INPUT)


def test_a_pass_moves_exactly_what_is_streamed_and_the_host_never_waits() -> None:
    model = Layers()
    expected = run(model)
    device, strategy = optimised(model)
    for _ in range(2):
        run(model)
    before, copies = device.traffic.to_device_bytes, device.traffic.copies
    for _ in range(PASSES):
        assert torch.equal(run(model), expected)
    report = strategy.report()
    streamed = report.components[0]
    assert 0 < streamed.streamed_blocks < streamed.blocks
    assert device.traffic.to_device_bytes - before == PASSES * streamed.streamed_bytes_per_pass
    assert device.traffic.copies - copies == PASSES * streamed.streamed_blocks
    assert report.from_device_bytes == 0 and report.host_blocks == 0 and streamed.misses == 0


def test_there_is_one_host_copy_of_each_weight() -> None:
    model = Layers(width=256)
    _, strategy = optimised(model)
    assert strategy.report().host_copied_bytes <= 1.05 * module_bytes(model)
    blocks = strategy._manager.components[0]
    homes = {home.slab.untyped_storage().data_ptr() for home in [blocks.fixed, *blocks.homes]}
    assert len(homes) == len(blocks.homes) + 1


def test_a_slow_link_changes_nothing_but_time() -> None:
    model = Layers()
    expected = run(model)
    optimised(model, latency_seconds=0.003)
    for _ in range(PASSES):
        assert torch.equal(run(model), expected)


def test_an_order_that_differs_from_the_definition_is_learned() -> None:
    model = Layers()
    model.order = [3, 1, 7, 0, 5, 5, 2, 6, 4]
    expected = run(model)
    _, strategy = optimised(model, share=0.45)
    for _ in range(2):
        assert torch.equal(run(model), expected)
    late = strategy.report().components[0].misses
    for _ in range(PASSES):
        assert torch.equal(run(model), expected)
    assert late > 0 and strategy.report().components[0].misses == late


def test_a_pass_that_skips_blocks_is_right_and_so_is_the_next() -> None:
    model = Layers()
    orders = [list(range(8)), [0, 2, 4], list(range(8)), [7, 6, 1], list(range(8))]
    expected = []
    for model.order in orders:
        expected.append(run(model))
    optimised(model, share=0.45)
    for model.order, wanted in zip(orders, expected):
        assert torch.equal(run(model), wanted)


def test_an_exception_in_a_pass_leaves_everything_usable() -> None:
    model = Layers()
    expected = run(model)
    optimised(model, share=0.45)
    broken = model.layers[4].register_forward_pre_hook(lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run(model)
    broken.remove()
    assert torch.equal(run(model), expected)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_threads_take_turns() -> None:
    model = Layers()
    expected = run(model)
    optimised(model, share=0.45, latency_seconds=0.001)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            if not torch.equal(run(model), expected):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_restore_puts_back_the_same_objects_without_hooks() -> None:
    model = Layers()
    parameters = dict(model.named_parameters())
    values = {name: parameter.clone() for name, parameter in parameters.items()}
    class_before, members = type(model), set(model.__dict__)
    device, _ = optimised(model)
    run(model)
    overflowml.restore(model)
    overflowml.restore(model)
    assert type(model) is class_before and set(model.__dict__) == members
    assert all(parameter is parameters[name] and torch.equal(parameter, values[name]) for name, parameter in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not device.pinned and device.allocated() == 0


def test_optimising_twice_is_optimising_anew() -> None:
    model = Layers()
    expected = run(model)
    first, _ = optimised(model, share=0.45)
    run(model)
    second, strategy = optimised(model, share=0.8)
    assert torch.equal(run(model), expected)
    assert first.allocated() == 0 and second.allocated() > 0
    assert strategy.report().components[0].passes == 1


def test_copies_and_pickles_are_refused_in_words_while_optimised() -> None:
    model = Layers()
    optimised(model)
    for attempt in (copy.deepcopy, pickle.dumps):
        with pytest.raises(overflowml.InUse, match="restore"):
            attempt(model)
    overflowml.restore(model)
    assert torch.equal(run(copy.deepcopy(model)), run(model))


def test_a_state_dict_taken_meanwhile_is_complete() -> None:
    model = Layers()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimised(model, share=0.45)
    run(model)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_weights_given_meanwhile_are_used() -> None:
    model = Layers()
    torch.manual_seed(9)
    others = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    other = Layers()
    other.load_state_dict(others)
    expected = run(other)
    optimised(model, share=0.45)
    run(model)
    model.load_state_dict(others)
    assert torch.equal(run(model), expected)
    overflowml.restore(model)
    assert torch.equal(run(model), expected)


def test_shared_views_and_odd_tensors_are_moved_as_they_are() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            whole = torch.randn(3, 16, 16)
            self.q, self.k = nn.Parameter(whole[0]), nn.Parameter(whole[1].t())
            self.scale = nn.Parameter(torch.tensor(1.5))
            self.empty = nn.Parameter(torch.empty(0, 16))
            self.register_buffer("sliced", torch.randn(16, 32)[:, ::2])
            self.register_buffer("spread", torch.randn(1, 16).expand(16, 16))
            self.register_buffer("again", self.spread)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.q @ self.k + x @ self.sliced) * self.scale + self.spread.sum() + self.again[0] + self.empty.sum()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Odd() for _ in range(6))
            self.blocks[3].q = self.blocks[1].q

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = torch.tanh(block(x))
            return x

    model, x = Model(), torch.linspace(-1, 1, 64).reshape(4, 16)
    with torch.no_grad():
        expected = model(x)
        strides = {name: tensor.stride() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        optimised(model, share=0.75)
        for _ in range(3):
            assert torch.equal(model(x), expected)
        overflowml.restore(model)
        assert torch.equal(model(x), expected)
    assert strides == {name: tensor.stride() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    assert model.blocks[3].q is model.blocks[1].q


class Quantised(torch.Tensor):
    """A quantised weight as libraries make them: a wrapper around integers and a scale."""

    @staticmethod
    def __new__(cls, integers: torch.Tensor, scale: torch.Tensor) -> Quantised:
        return torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=scale.dtype, device=integers.device)

    def __init__(self, integers: torch.Tensor, scale: torch.Tensor) -> None:
        self.integers, self.scale = integers, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["integers", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, torch.Tensor], context: None, size: Any, stride: Any) -> Quantised:
        return cls(inner["integers"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].integers, args[0].scale)
        plain = [a.integers * a.scale if isinstance(a, Quantised) else a for a in args]
        return func(*plain, **(kwargs or {}))


def test_wrapper_subclasses_travel_as_their_parts() -> None:
    model = Layers(width=64)
    for layer in model.layers:
        integers = torch.randint(-100, 100, (64, 64), dtype=torch.int8)
        layer[0].weight = nn.Parameter(Quantised(integers, torch.tensor(0.001)), requires_grad=False)
    expected = run(model)
    for share in (0.6, 0.8):
        device, strategy = optimised(model, share=share)
        assert not any("Quantised" in note for note in strategy.notes)
        for _ in range(3):
            assert torch.equal(run(model), expected)
        assert strategy.report().components[0].streamed_blocks > 0
        assert device.traffic.to_device_bytes < 40 * 64 * 64 * 4
        overflowml.restore(model)
        assert torch.equal(run(model), expected)
    assert all(isinstance(layer[0].weight, Quantised) for layer in model.layers)


def test_tensors_whose_bytes_are_unknown_stay_and_a_note_says_so() -> None:
    class Strange(torch.Tensor):
        pass

    model = Layers()
    strange = torch.randn(32, 32).as_subclass(Strange)
    model.layers[2][0].weight = nn.Parameter(strange, requires_grad=False)
    with torch.no_grad():
        expected = model(INPUT)
        _, strategy = optimised(model, share=0.7)
        assert torch.equal(model(INPUT), expected)
    assert any("layers.2" in note and "Strange" in note for note in strategy.notes)


def test_out_of_memory_while_coming_says_so_and_undoes_everything() -> None:
    model = Layers()
    expected, total = run(model), module_bytes(model)
    device = SimulatedDevice(2 * total, faults=Faults(allocations_before_failing=2))
    with pytest.raises(torch.OutOfMemoryError):
        overflowml.optimize_model(model, device=device, vram=total // 2, activations=0)
    assert torch.equal(run(model), expected)
    assert device.allocated() == 0 and "_overflowml_manager" not in model.__dict__


def test_a_failing_copy_is_raised_and_the_next_pass_is_right() -> None:
    model = Layers()
    expected = run(model)
    device, _ = optimised(model, share=0.45)
    run(model)
    device.faults.copies_before_failing = 3
    with pytest.raises(RuntimeError, match="the copy failed"):
        run(model)
    device.faults.copies_before_failing = None
    for _ in range(2):
        assert torch.equal(run(model), expected)


def test_memory_that_cannot_be_registered_is_used_as_it_is() -> None:
    model = Layers()
    expected = run(model)
    device, strategy = optimised(model, share=0.45, faults=Faults(refuse_pinning=True))
    assert torch.equal(run(model), expected)
    assert not device.pinned and any("registered" in note for note in strategy.notes)


def test_a_budget_that_is_too_small_names_one_that_works() -> None:
    model = Layers()
    with pytest.raises(overflowml.Infeasible) as refused:
        overflowml.optimize_model(model, device=SimulatedDevice(1 << 20), vram="4KiB", activations=0)
    assert refused.value.code
    assert isinstance(refused.value, MemoryError)


def test_residency_follows_what_a_pass_turns_out_to_need() -> None:
    model = Layers(width=64)
    total = module_bytes(model)
    device = SimulatedDevice(2 * total)
    strategy = overflowml.optimize_model(model, device=device, vram=int(0.8 * total), activations=int(0.25 * total))
    expected = run(model)
    before = strategy.report().components[0].streamed_blocks
    for _ in range(3):
        assert torch.equal(run(model), expected)
    assert strategy.report().components[0].streamed_blocks < before
    assert device.peak() <= 0.8 * total


def test_compiled_modules_stream() -> None:
    model = Layers()
    expected = run(model)
    optimised(model, share=0.45)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(compiled(INPUT), expected)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_any_gradient_mode(mode: Any) -> None:
    model = Layers()
    with mode():
        expected = model(INPUT)
        optimised(model, share=0.45)
        for _ in range(2):
            assert torch.equal(model(INPUT), expected)
    overflowml.restore(model)


def test_autocast_computes_the_same() -> None:
    model = Layers()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(INPUT)
        optimised(model, share=0.45)
        for _ in range(2):
            assert torch.equal(model(INPUT), expected)


def test_what_is_no_module_is_refused_in_words() -> None:
    for thing in (None, 3, "model", object()):
        with pytest.raises(overflowml.UnsupportedObject, match="torch module"):
            overflowml.optimize_model(thing)
    with pytest.raises(TypeError, match="GiB"):
        overflowml.optimize_model(Layers(), vram=8.5)
    with pytest.raises(ValueError, match="fp16"):
        overflowml.optimize_model(Layers(), allow=["fp16"])


def test_the_trace_opens_in_perfetto(tmp_path: Path) -> None:
    model = Layers()
    _, strategy = optimised(model, share=0.45)
    run(model)
    strategy.trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    computed = [event for event in events if event["ph"] == "X" and event["cat"] == "compute"]
    assert {event["name"] for event in computed} >= {"layers.0.0", "layers.7.0"}
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in computed)


def test_a_module_in_memory_moves_to_a_file_only_if_it_may() -> None:
    model = Layers(width=128)
    expected, total = run(model), module_bytes(model)
    parameters = list(model.parameters())
    with pytest.raises(overflowml.Infeasible, match="spill"):
        overflowml.optimize_model(model, device="cpu", ram=total // 2, activations=0)
    strategy = overflowml.optimize_model(model, device="cpu", ram=total // 2, activations=0, spill=True)
    for _ in range(2):
        assert torch.equal(run(model), expected)
    assert strategy.report().components[0].disk["bytes_read"] > total // 2
    file = Path(strategy._manager.components[0].files[0])
    overflowml.restore(model)
    assert torch.equal(run(model), expected) and not file.exists()
    assert all(one is other for one, other in zip(parameters, model.parameters()))


def test_blocks_that_stay_are_spread_evenly() -> None:
    for count in range(1, 40):
        for chosen in range(count + 1):
            flags = spread(count, chosen)
            assert sum(flags) == chosen and len(flags) == count
            gaps = [run_.count("0") for run_ in "".join("1" if f else "0" for f in flags).split("1")][:-1]
            assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_ring_reads_ahead_and_around() -> None:
    ring = Ring([0, 1, 2, 3], 2)
    loaded = []
    for step in range(9):
        block = step % 4
        if ring.slot_of(block) is None:
            slot = ring.victim()
            ring.held[slot] = block
            loaded.append(("late", block))
        slot = ring.slot_of(block)
        ring.used(block)
        following = ring.upcoming(slot)
        if following is not None:
            ring.held[slot] = following
            loaded.append(("ahead", following))
    assert [row for row in loaded if row[0] == "late"] == [("late", 0)]
    assert [block for _, block in loaded] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1][: len(loaded)]


def test_lists_inside_large_blocks_are_cut_and_attention_is_not() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4)
            self.inner = nn.ModuleList(nn.Linear(128, 128) for _ in range(4))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

    anatomy = dissect(Model(), largest=40_000)
    names = [block.name for block in anatomy.blocks()]
    assert "blocks.0.inner.2" in names and not any("out_proj" in name for name in names)
