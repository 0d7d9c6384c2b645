"""The Rust half alone: memory and JSON text, without torch unless a test is about it."""

import ctypes
import gc
import json
import os
import pickle
import random
import subprocess
import sys
import threading

import pytest
from overflowml import _native as native

PAGE = 4096


@pytest.fixture
def weights(tmp_path):
    """Two files of noise, and groups of spans in them: unequal, scattered, touching."""
    noise = random.Random(5)
    contents = [noise.randbytes(9_000_001), noise.randbytes(70_003)]
    files = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for file, content in zip(files, contents):
        file.write_bytes(content)
    groups = [
        [(0, 0, 5_000_000)],
        [(0, 5_000_000, 20_000), (1, 3, 1000)],
        [(0, 5_020_000, 70_000)],
        [(1, 69_000, 1003), (1, 10_000, 5000)],
        [(0, 5_200_000, 3_800_001)],
        [(1, 20_000, 9), (1, 20_009, 0), (1, 20_009, 4000)],
    ]
    return files, contents, groups


def check(slab, contents, group):
    """Every span of the group is what its file has."""
    for (offset, length), (file, start, wanted) in zip(slab.spans(), group, strict=True):
        assert length == wanted and offset + length <= slab.nbytes
        found = ctypes.string_at(slab.address + offset, length)
        assert found == contents[file][start : start + length]


def stored(group):
    """Bytes of whole sectors that a group's spans touch."""
    sectors = {(f, s) for f, o, n in group if n for s in range(o // PAGE, (o + n - 1) // PAGE + 1)}
    return len(sectors) * PAGE


def test_passes_give_the_files_bytes_and_read_what_rotates(weights):
    files, contents, groups = weights
    order, passes = [0, 1, 2, 3, 4, 5], 4
    store = native.WeightStore(files, groups, [0, 3], order, 2)
    for group in order * passes:
        check(store.acquire(group), contents, groups[group])
        store.release(group)
    counters = store.counters()
    streamed = sum(stored(groups[group]) for group in (1, 2, 4, 5))
    assert counters["bytes_per_pass"] == streamed
    assert counters["weights_per_pass_bytes"] == sum(n for g in (1, 2, 4, 5) for _, _, n in groups[g])
    resident = stored(groups[0]) + stored(groups[3])
    used = resident + passes * streamed
    assert used <= counters["bytes_read"] <= used + streamed, "beside what is read ahead"
    assert counters["misses"] == 0 and counters["acquired"] == len(order) * passes
    assert counters["host_bytes"] == resident + 2 * stored(groups[4])
    assert counters["host_peak_bytes"] == counters["host_bytes"]


def test_one_pass_reads_exactly_once(weights):
    files, contents, groups = weights
    store = native.WeightStore(files, groups, [0], [1, 2, 3, 4, 5], 3, cyclic=False)
    for group in range(6):
        check(store.acquire(group), contents, groups[group])
        store.release(group)
    counters = store.counters()
    assert counters["bytes_read"] == sum(stored(group) for group in groups)


def test_a_group_out_of_order_is_a_miss_and_reading_goes_on_behind_it(weights):
    files, contents, groups = weights
    store = native.WeightStore(files, groups, [], [1, 2, 3, 5], 2)
    seen = []
    for group in (1, 5, 1, 3, 5):
        check(store.acquire(group), contents, groups[group])
        store.release(group)
        seen.append(store.counters()["misses"])
    assert seen == [0, 1, 1, 2, 2]


def test_a_group_outside_the_order_has_memory_while_it_is_held(weights):
    files, contents, groups = weights
    store = native.WeightStore(files, groups, [], [2, 3], 2)
    before = store.counters()["host_bytes"]
    check(store.acquire(0), contents, groups[0])
    assert store.counters()["host_bytes"] == before + stored(groups[0])
    store.release(0)
    assert store.counters()["host_bytes"] == before


def test_slots_that_are_all_held_are_told(weights):
    files, _, groups = weights
    store = native.WeightStore(files, groups, [], [1, 2, 3], 2)
    store.acquire(1)
    store.acquire(2)
    with pytest.raises(native.OverflowmlError) as refused:
        store.acquire(3)
    assert refused.value.code == "stream.no-slot" and refused.value.hint
    store.release(1)
    store.acquire(3)


def test_a_closed_store_gives_nothing_but_slabs_keep_their_memory(weights):
    files, contents, groups = weights
    store = native.WeightStore(files, groups, [0], [1, 2], 2)
    slab = store.resident(0)
    store.close()
    store.close()
    for call in (store.acquire, store.resident):
        with pytest.raises(native.ClosedError) as refused:
            call(0)
        assert isinstance(refused.value, ValueError) and refused.value.code == "stream.closed"
    del store
    gc.collect()
    check(slab, contents, groups[0])


def test_what_is_wrong_with_a_request_is_said(weights, tmp_path):
    files, _, groups = weights
    wrong = {
        "stream.layout": [
            (files, groups, [9], [], 1),
            (files, groups, [], [0], 0),
            (files, [[(7, 0, 1)]], [0], [], 1),
        ],
        "stream.ended": [(files, [[(0, 9_000_000, 2)]], [0], [], 1)],
        "stream.open": [([tmp_path / "none"], [[(0, 0, 1)]], [0], [], 1)],
    }
    for code, requests in wrong.items():
        for request in requests:
            with pytest.raises(native.OverflowmlError) as refused:
                native.WeightStore(*request)
            assert refused.value.code == code, request
    with pytest.raises(TypeError):
        native.WeightStore(files, groups, "resident", [], 1)
    with pytest.raises(OverflowError):
        native.WeightStore(files, [[(0, -1, 1)]], [], [], 1)
    store = native.WeightStore(files, groups, [0], [1], 1)
    for call in (lambda: store.acquire(6), lambda: store.resident(1)):
        with pytest.raises(native.ArgumentError):
            call()
    with pytest.raises(native.OverflowmlError):
        store.release(1)


def test_a_file_that_changed_is_not_used(weights):
    files, _, groups = weights
    store = native.WeightStore(files, groups, [], [2, 3], 2)
    store.acquire(2)
    os.truncate(files[0], 5_000_000)
    with pytest.raises(native.ReadError) as refused:
        store.acquire(4)
    assert isinstance(refused.value, OSError)
    assert refused.value.code in ("stream.ended", "stream.changed") and "a.bin" in str(refused.value)


def test_threads_see_right_bytes(weights):
    files, contents, groups = weights
    store = native.WeightStore(files, groups, [0], [1, 2, 3, 4, 5], 4)
    failures = []

    def visit(seed):
        order = random.Random(seed)
        try:
            for _ in range(100):
                group = order.randrange(6)
                check(store.acquire(group), contents, groups[group])
                store.release(group)
        except BaseException as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_tensor_of_a_slab_keeps_the_memory(weights):
    torch = pytest.importorskip("torch")
    files, contents, groups = weights
    store = native.WeightStore(files, groups, [0], [1], 1)
    tensor = torch.from_dlpack(store.resident(0))
    assert tensor.dtype == torch.uint8 and tensor.data_ptr() % PAGE == 0
    store.close()
    del store
    gc.collect()
    assert tensor[:5_000_000].numpy().tobytes() == contents[0][:5_000_000]
    unclaimed = native.WeightStore(files, groups, [0], [1], 1).resident(0).__dlpack__()
    del unclaimed
    gc.collect()


def test_questions_have_the_commands_documents():
    assert json.loads(native.detect())["memory"]["total_bytes"]["value"] > 0
    options = {"gpu": "RTX 4090", "ram": "64GiB", "no_quantize": True, "batch": 1, "os": None}
    plan = json.loads(native.plan("40", json.dumps(options)))
    assert plan["fits"] and plan["recommended"]["quantization"] == "none"
    mixture = json.loads(native.plan("", json.dumps({"moe": [30, 3, 128, 8], "gpu": "RTX 4070"})))
    assert mixture["model"]["parameters"] == pytest.approx(30e9, rel=0.1)
    assert json.loads(native.can_run("40", json.dumps(options)))["ok"] is True
    assert "issues" in json.loads(native.doctor())


@pytest.mark.parametrize(
    "ask",
    [
        lambda: native.plan("40", '{"colour": "red"}'),
        lambda: native.plan("40", '{"gpu=x --json": true}'),
        lambda: native.plan("40", "[1]"),
        lambda: native.plan("40", '{"moe": ["--gpu"]}'),
        lambda: native.can_run("40", '{"vram": {}}'),
    ],
)
def test_options_that_there_are_not_are_refused(ask):
    with pytest.raises(native.ArgumentError) as refused:
        ask()
    assert isinstance(refused.value, ValueError) and "\n" not in str(refused.value)


def test_errors_are_told_by_class_and_survive_pickling(tmp_path):
    with pytest.raises(native.ModelError) as refused:
        native.open_model(tmp_path)
    assert refused.value.code == "formats.no-weights" and refused.value.hint
    again = pickle.loads(pickle.dumps(refused.value))
    assert type(again) is type(refused.value) and again.code == refused.value.code
    assert str(again) == str(refused.value)


def test_stored_tensors_are_where_the_document_says(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {"a.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "b": torch.ones(())}
    (tmp_path / "unet").mkdir()
    index = {"_class_name": "P", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(tensors, file)
    for path, name in ((tmp_path, "unet"), (tmp_path / "unet", ""), (file, "")):
        [component] = json.loads(native.open_model(path))["components"]
        assert component["name"] == name and component["files"] == [str(file)]
        found = {tensor["name"]: tensor for tensor in component["tensors"]}
        assert found["a.weight"]["dtype"] == "bf16" and found["a.weight"]["shape"] == [2, 3]
        content = file.read_bytes()
        one = found["a.weight"]
        stored_bytes = content[one["offset"] : one["offset"] + one["length"]]
        assert stored_bytes == tensors["a.weight"].view(torch.uint8).numpy().tobytes()


def test_the_script_is_the_command():
    command = [sys.executable, "-m", "overflowml"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"overflowml {native.__version__}\n"
    refused = subprocess.run([*command, "plan", "--colour"], capture_output=True, text=True)
    assert refused.returncode == 2 and "--colour" in refused.stderr
    no = [*command, "can-run", "4000", "--gpu", "RTX 3060", "--ram", "16GiB"]
    assert subprocess.run(no, capture_output=True).returncode == 1


def test_importing_does_not_import_torch():
    code = "import overflowml, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


MIB = 2**20


def placement(**changes):
    request = {
        "device": {"kind": "cuda", "name": "a GPU", "total_bytes": 8 * 2**30, "free_bytes": 8 * 2**30, "unified": False},
        "vram_bytes": 1000 * MIB,
        "ram_bytes": None,
        "task": "other",
        "steps": 1,
        "allow": ["exact"],
        "components": [
            {
                "name": "",
                "kind": "other",
                "source": "host",
                "dtype": "bf16",
                "fixed_bytes": 100 * MIB,
                "activation_bytes": 50 * MIB,
                "stacks": [{"name": "layers", "block_bytes": [100 * MIB] * 12}],
            }
        ],
    } | changes
    return json.loads(native.place(json.dumps(request)))


def test_a_placement_uses_its_budget_and_no_more():
    tight = placement()
    [component] = tight["components"]
    # 1000 less 150 beside the blocks and two slots of 100.
    assert component["mode"] == "stream" and component["slots"] == 2
    assert sum(component["resident"][0]) == 6
    assert tight["strategy"] == {"offload": "layer_hybrid", "quantization": "none", "dtype": "bfloat16"}
    assert tight["predicted"]["vram_peak_bytes"] == 950 * MIB
    assert placement(vram_bytes=1350 * MIB)["strategy"]["offload"] == "none"
    assert placement(vram_bytes=None)["components"][0]["mode"] == "resident"


def test_the_smallest_budget_is_named_and_works():
    with pytest.raises(native.Infeasible) as refused:
        placement(vram_bytes=10 * MIB)
    assert isinstance(refused.value, MemoryError)
    assert 'vram="350MiB"' in refused.value.hint
    assert placement(vram_bytes=350 * MIB)["strategy"]["offload"] == "sequential_cpu"


def test_a_request_that_is_not_one_is_refused():
    for wrong in ("", "[]", '{"device": {}}'):
        with pytest.raises(native.ArgumentError):
            native.place(wrong)
    with pytest.raises(native.ArgumentError, match="colour"):
        placement(colour="red")
