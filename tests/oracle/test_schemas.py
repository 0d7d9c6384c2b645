"""The published JSON schemas against what the command really prints."""

import copy
import json
from typing import Any, Iterator

import pytest
from jsonschema import Draft202012Validator

from conftest import ROOT

NEITHER = [[["neither"]]]


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def objects(document: Any) -> Iterator[dict[str, Any]]:
    """Every object, except a decoder, whose inside is not published."""
    if isinstance(document, dict):
        yield document
        for name, value in document.items():
            if name != "decoder":
                yield from objects(value)
    elif isinstance(document, list):
        for value in document:
            yield from objects(value)


def check(name: str, document: Any) -> None:
    """It is as the schema says, and would not be if any field were of another type."""
    rules = validator(name)
    assert [f"{error.json_path}: {error.message}" for error in rules.iter_errors(document)] == []
    for place, original in enumerate(objects(document)):
        for field in original:
            changed = copy.deepcopy(document)
            list(objects(changed))[place][field] = NEITHER
            assert not rules.is_valid(changed), f"{name}: `{field}` may be anything"


@pytest.mark.parametrize("options", [(), ("--live",)])
def test_detect(overflowml, options) -> None:
    check("detect", overflowml.json("detect", *options))


def test_detect_of_a_machine_with_every_part() -> None:
    check("detect", json.loads((ROOT / "schemas/examples/detect.json").read_text()))


def test_inspect_of_models_it_can_and_cannot_run(overflowml, tmp_path) -> None:
    model = tmp_path / "model"
    assert overflowml.run("synth", model, "--arch", "llama", "--params", "300K").code == 0
    check("inspect", overflowml.json("inspect", model))
    config = json.loads((model / "config.json").read_text())
    config.update(architectures=["BloomForCausalLM"], model_type="bloom")
    (model / "config.json").write_text(json.dumps(config))
    seen = overflowml.json("inspect", model)
    assert seen["runnable"] is False
    check("inspect", seen)


@pytest.mark.parametrize("options", [(), ("--model", "./no-such-model")])
def test_doctor_whatever_it_finds(overflowml, options) -> None:
    done = overflowml.run("doctor", *options, "--json")
    report = json.loads(done.stdout)
    assert done.code == (0 if report["ok"] else 1)
    check("doctor", report)
    for field in report:
        lacking = {name: value for name, value in report.items() if name != field}
        assert not validator("doctor").is_valid(lacking), field


MACHINES = {
    "none": ("--gpu", "none", "--ram", "24GiB"),
    "one": ("--gpu", "RTX 4090", "--ram", "64GiB"),
    "two": ("--gpu", "RTX 3090", "--gpus", 2, "--ram", "64GiB", "--os", "windows"),
    "mac": ("--gpu", "M4 Max"),
}
OPEN = ("wish", "machine", "plan")
"""Published elsewhere, or for people only."""


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("what", [(7,), (40,), (400, "--no-quantize"), ("--moe", 30, 3, 128, 8)], ids=str)
def test_plan_and_can_run(overflowml, machine, what) -> None:
    done = overflowml.run("plan", *what, *machine, "--json")
    document = json.loads(done.stdout)
    assert done.code == (0 if document["fits"] else 1), done.stderr
    rules = validator("plan")
    assert [f"{error.json_path}: {error.message}" for error in rules.iter_errors(document)] == []
    check("plan", {name: {} if name in OPEN else value for name, value in document.items()})
    done = overflowml.run("can-run", *what, *machine, "--json")
    answer = json.loads(done.stdout)
    assert done.code == (0 if answer["ok"] else 1)
    assert answer["ok"] == document["fits"]
    check("can-run", answer)


def test_plan_of_a_model_that_runs_here(overflowml, tmp_path) -> None:
    model = tmp_path / "model"
    assert overflowml.run("synth", model, "--arch", "llama", "--params", "300K").code == 0
    document = overflowml.json("plan", model)
    assert document["plan"] and document["reasons"] and document["model"]["source"] == "headers"
    assert [error.message for error in validator("plan").iter_errors(document)] == []
