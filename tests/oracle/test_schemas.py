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
