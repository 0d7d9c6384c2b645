"""Runs the real binary, away from the user's settings."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


@dataclass(frozen=True)
class Finished:
    """How a run of the command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Command:
    """The `overflowml` binary."""

    binary: Path
    home: Path

    def environment(self) -> dict[str, str]:
        """No cache, no calibration and no settings of the user."""
        own = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        return {**os.environ, **own, "XDG_CONFIG_HOME": str(self.home / "config")}

    def run(self, *arguments: Any, before: tuple[str, ...] = (), timeout: float = 120) -> Finished:
        """Runs the command, behind the words of `before`."""
        words = [*before, str(self.binary), *map(str, arguments)]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, env=self.environment(), check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: Any, before: tuple[str, ...] = ()) -> Any:
        """What a run that must succeed prints."""
        done = self.run(*arguments, "--json", before=before)
        assert done.code == 0, f"exit {done.code}: {done.stderr}"
        return json.loads(done.stdout)

    def score(self, model: Path, tokens: list[int], *options: Any) -> Any:
        """`score --json` on token ids."""
        return self.json("score", model, "--tokens", ",".join(map(str, tokens)), *options)

    def generate(self, model: Path, prompt: str, count: int, *options: Any, **rest: Any) -> Any:
        """Greedy `run --json`."""
        greedy = ("--temperature", 0, "--max-new-tokens", count)
        return self.json("run", model, "--prompt", prompt, *greedy, *options, **rest)


@pytest.fixture(scope="session")
def overflowml(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The binary that `$OVERFLOWML_BIN` names, else the release build."""
    binary = Path(os.environ.get("OVERFLOWML_BIN", ROOT / "target/release/overflowml"))
    assert binary.is_file(), f"{binary} is missing: cargo build --release"
    return Command(binary, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def memcap() -> Any:
    """Words that put a command under a hard memory limit; skips where that is not possible."""
    xtask = os.environ.get("OVERFLOWML_XTASK", str(ROOT / "target/debug/xtask"))
    if not Path(xtask).is_file():
        pytest.skip(f"{xtask} is missing: run these tests through `cargo xtask test`")
    probe = subprocess.run([xtask, "memcap", "64MiB", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no hard memory limit here: {probe.stderr.strip()}")
    return lambda limit: (xtask, "memcap", str(limit))
