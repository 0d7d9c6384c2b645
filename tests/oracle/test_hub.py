"""Models by name: downloads from a server that speaks the hub's protocol, into the cache that others read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import Hub, serve

NAME = "org/tiny"


@pytest.fixture(scope="module")
def tiny(overflowml, tmp_path_factory) -> Path:
    """A model of about 8 MB."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    made = overflowml.run("synth", folder, "--arch", "llama", "--params", "4M", "--seed", 7)
    assert made.code == 0, made.stderr
    (folder / "README.md").write_text("not needed to run")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(bytes(5000))
    return folder


@pytest.fixture
def hub(tiny):
    hub = Hub(models={NAME: tiny})
    server, hub.address = serve(hub)
    yield hub
    server.shutdown()


@pytest.fixture
def client(overflowml, hub, tmp_path):
    """The command, with an empty cache, on that hub."""

    class Client(type(overflowml)):
        extra = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")}

        def environment(self):
            return {**super().environment(), **self.extra}

    client = Client(overflowml.binary, overflowml.home)
    type(client).cache = tmp_path / "hf" / "hub"
    return client


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def snapshot(cache: Path) -> Path:
    [folder] = (cache / "models--org--tiny" / "snapshots").iterdir()
    return folder


def test_a_model_is_downloaded_run_and_then_found(client, hub, tiny):
    local = client.generate(tiny, "Once", 4)
    assert client.generate(NAME, "Once", 4)["tokens"] == local["tokens"]
    folder = snapshot(client.cache)
    assert weights(folder) == weights(tiny)
    assert folder.name == hub.commit(NAME)
    assert not (folder / "README.md").exists() and not (folder / "onnx").exists()
    asked = len(hub.requests)
    assert client.generate(NAME, "Once", 4)["tokens"] == local["tokens"]
    assert len(hub.requests) == asked, "what is in the cache is not asked for"


def test_other_tools_find_the_download_and_it_finds_theirs(client, hub, tiny, tmp_path):
    client.generate(NAME, "Once", 1)
    code = (
        "import sys, huggingface_hub as h;"
        "print(h.snapshot_download(sys.argv[1], local_files_only=sys.argv[2] == 'local',"
        " ignore_patterns=['onnx/*', '*.md']))"
    )

    def theirs(home: Path, mode: str) -> Path:
        own = {"HF_HOME": str(home), "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        words = [sys.executable, "-c", code, NAME, mode]
        done = subprocess.run(words, env={**os.environ, **own}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    ours = theirs(client.cache.parent, "local")
    assert ours == snapshot(client.cache)
    for file in ours.iterdir():
        assert file.is_symlink() and file.read_bytes() == (tiny / file.name).read_bytes()
    elsewhere = tmp_path / "theirs"
    folder = theirs(elsewhere, "remote")
    assert {file.name for file in folder.iterdir()} == {file.name for file in ours.iterdir()}
    links = {file.name: os.readlink(file) for file in ours.iterdir()}
    assert {file.name: os.readlink(file) for file in folder.iterdir()} == links
    asked = len(hub.requests)
    type(client).extra = {**client.extra, "HF_HOME": str(elsewhere)}
    client.generate(NAME, "Once", 1)
    assert len(hub.requests) == asked


def test_looking_reads_headers_only(client, hub, tiny):
    remote = client.json("inspect", NAME)
    local = client.json("inspect", tiny)
    for document in (remote, local):
        document.pop("path", None)
    assert remote["parameters"] == local["parameters"]
    assert remote["architecture"] == local["architecture"]
    assert hub.sent < 600_000 < len(weights(tiny))
    assert not list(client.cache.rglob("*.safetensors"))
    plan = client.json("plan", NAME)
    assert plan["fits"] is True
    # What looking has left in the cache is not taken for the model.
    client.generate(NAME, "Once", 1)
    assert weights(snapshot(client.cache)) == weights(tiny)


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_are_taken_up_where_they_broke(client, hub, tiny, ranges):
    hub.ranges, hub.cut_after, hub.cuts = ranges, 3_000_000, 2
    client.generate(NAME, "Once", 1)
    assert weights(snapshot(client.cache)) == weights(tiny)
    if ranges:
        assert hub.sent <= len(weights(tiny)) + 100_000, "nothing is sent twice"


def test_an_interrupted_download_goes_on_in_the_next_run(client, hub, tiny):
    hub.cut_after, hub.cuts = 2_000_000, 1
    sha256 = hub.sibling(NAME, "model.safetensors")["lfs"]["sha256"]
    blobs = client.cache / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256}.incomplete").write_bytes(weights(tiny)[:5_000_000])
    client.generate(NAME, "Once", 1)
    assert weights(snapshot(client.cache)) == weights(tiny)
    assert hub.sent <= len(weights(tiny)) - 5_000_000 + 100_000
    assert not list(blobs.glob("*.incomplete"))


def test_a_damaged_beginning_is_thrown_away_and_fetched_anew(client, hub, tiny):
    sha256 = hub.sibling(NAME, "model.safetensors")["lfs"]["sha256"]
    blobs = client.cache / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256}.incomplete").write_bytes(bytes(1_000_000))
    client.generate(NAME, "Once", 1)
    assert weights(snapshot(client.cache)) == weights(tiny)


def test_damaged_files_are_never_used(client, hub):
    hub.damaged = {"model.safetensors"}
    done = client.run("run", NAME, "--prompt", "Once", "--max-new-tokens", 1)
    assert done.code == 2 and "model.safetensors" in done.stderr and "SHA-256" in done.stderr
    assert not list(client.cache.rglob("*.safetensors"))
    hub.damaged = set()
    client.generate(NAME, "Once", 1)


def test_passing_refusals_are_waited_for_and_lasting_ones_end_it(client, hub):
    hub.refusals = [503, 429, 500]
    client.generate(NAME, "Once", 1)
    shutil.rmtree(client.cache)
    hub.refusals = [503] * 100
    done = client.run("run", NAME, "--prompt", "Once", "--max-new-tokens", 1)
    assert done.code == 2 and "503" in done.stderr and "try again" in done.stderr


def test_gated_models_need_the_right_token(client, hub, tmp_path):
    hub.gated = {NAME: "hf_right"}
    words = ("run", NAME, "--prompt", "Once", "--max-new-tokens", 1)
    assert "HF_TOKEN" in client.run(*words).stderr
    type(client).extra = {**client.extra, "HF_TOKEN": "hf_wrong"}
    wrong = client.run(*words)
    assert wrong.code == 2 and "with this token" in wrong.stderr
    type(client).extra = {**client.extra, "HF_TOKEN": "hf_right"}
    assert client.run(*words).code == 0


def test_names_that_lead_nowhere(client, hub):
    for name in ("org/none", f"{NAME}@v9"):
        done = client.run("run", name, "--prompt", "Once")
        assert done.code == 2 and "has no model" in done.stderr, name
        assert done.stdout == ""
    assert not (client.cache / "models--org--none").exists()


def test_offline_nothing_is_asked(client, hub):
    type(client).extra = {**client.extra, "HF_HUB_OFFLINE": "1"}
    done = client.run("run", NAME, "--prompt", "Once")
    assert done.code == 2 and "HF_HUB_OFFLINE" in done.stderr
    assert hub.requests == []


def test_a_model_without_safetensors_says_what_it_has(client, hub, tmp_path):
    folder = tmp_path / "binary"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(bytes(9))
    hub.models["org/binary"] = folder
    done = client.run("run", "org/binary", "--prompt", "Once")
    assert done.code == 2 and "pytorch_model.bin" in done.stderr


def test_no_server(client):
    type(client).extra = {**client.extra, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = client.run("run", NAME, "--prompt", "Once")
    assert done.code == 2 and "127.0.0.1:9" in done.stderr and "HF_ENDPOINT" in done.stderr


def test_two_downloads_at_once_fetch_everything_once(client, hub, tiny):
    words = [client.binary, "run", NAME, "--prompt", "Once", "--max-new-tokens", "1"]
    env = client.environment()
    both = [subprocess.Popen(list(map(str, words)), env=env, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    assert weights(snapshot(client.cache)) == weights(tiny)
    assert hub.sent <= len(weights(tiny)) + 100_000
