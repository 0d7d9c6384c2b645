"""What an optimised object did: waits, bytes moved, peaks, predicted against measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .sizes import show_size

if TYPE_CHECKING:
    from .engine.component import Component
    from .engine.manager import Manager


@dataclass
class BlockReport:
    """One block in the last pass; seconds."""

    name: str
    start: float
    wait: float
    compute: float


@dataclass
class ComponentReport:
    """One model."""

    name: str
    passes: int
    seconds_last_pass: float
    misses: int
    blocks: int
    streamed_blocks: int
    streamed_bytes_per_pass: int
    wait_seconds: float
    timeline: list[BlockReport] = field(default_factory=list)
    disk: dict[str, float] = field(default_factory=dict)


@dataclass
class Report:
    """Everything measured since the object was optimised."""

    device: str
    components: list[ComponentReport]
    to_device_bytes: int
    from_device_bytes: int
    host_blocks: int
    host_copied_bytes: int
    peak_vram_bytes: int
    predicted_vram_bytes: int
    predicted_seconds_per_pass: float
    load_seconds: float

    def __str__(self) -> str:
        lines = [
            f"{self.device}: {show_size(self.to_device_bytes)} copied to it, {show_size(self.from_device_bytes)} back, "
            f"the host waited {self.host_blocks} times",
            f"peak {show_size(self.peak_vram_bytes)} measured, {show_size(self.predicted_vram_bytes)} predicted",
        ]
        for component in self.components:
            lines.append(
                f"{component.name or 'model'}: {component.passes} passes, the last took {component.seconds_last_pass:.3f} s, "
                f"of which {component.wait_seconds:.3f} s waiting; {component.streamed_blocks} of {component.blocks} blocks streamed, "
                f"{show_size(component.streamed_bytes_per_pass)} per pass; {component.misses} blocks came late"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def write_trace(self, path: str) -> None:
        """The last pass of each model as a Chrome trace."""
        events: list[dict[str, Any]] = []
        for thread, component in enumerate(self.components):
            events.append(_named("thread_name", thread, component.name or "model"))
            for block in component.timeline:
                start = block.start * 1e6
                if block.wait > 0:
                    events.append(_slice("wait", block.name, thread, start, block.wait * 1e6))
                events.append(_slice(block.name, "compute", thread, start + block.wait * 1e6, block.compute * 1e6))
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, out)


def _named(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": 1, "tid": thread, "args": {"name": name}}


def _slice(name: str, category: str, thread: int, start: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": category, "pid": 1, "tid": thread, "ts": start, "dur": duration}


def make_report(manager: Manager) -> Report:
    """Gathers what the engine counted. Waits for the device, once."""
    predicted = manager.placement.predicted if manager.placement else {}
    traffic = manager.device.traffic
    host_blocks = traffic.host_blocks
    manager.device.synchronize()
    return Report(
        device=manager.device.name,
        components=[_component_report(component) for component in manager.components],
        to_device_bytes=traffic.to_device_bytes,
        from_device_bytes=traffic.from_device_bytes,
        host_blocks=host_blocks,
        host_copied_bytes=sum(c.stats.host_copied_bytes for c in manager.components),
        peak_vram_bytes=manager.device.peak(),
        predicted_vram_bytes=int(predicted.get("vram_peak_bytes", 0)),
        predicted_seconds_per_pass=float(predicted.get("seconds_per_pass", 0.0)),
        load_seconds=manager.load_seconds,
    )


def _component_report(component: Component) -> ComponentReport:
    timeline = [BlockReport(*row) for row in component.timeline()]
    return ComponentReport(
        name=component.name,
        passes=component.stats.passes,
        seconds_last_pass=component.seconds_per_pass,
        misses=component.stats.misses,
        blocks=len(component.blocks),
        streamed_blocks=len(component.streamed()),
        streamed_bytes_per_pass=sum(component.block_bytes(index) for index in component.streamed()),
        wait_seconds=sum(block.wait for block in timeline),
        timeline=timeline,
        disk=component.disk_counters(),
    )
