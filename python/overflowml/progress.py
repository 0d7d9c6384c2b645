"""Progress while weights are moved or read: on a terminal only, and only if it takes longer than a second."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any


class Progress:
    """Counts bytes towards a total; draws with tqdm where that is installed."""

    def __init__(self, total: int, what: str, show: bool | None = None) -> None:
        self._total, self._what, self._done = total, what, 0
        self._show = sys.stderr.isatty() if show is None else show
        self._started = time.monotonic()
        self._bar: Any = None

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._show and self._bar is None and time.monotonic() - self._started > 1.0:
            with contextlib.suppress(ImportError):
                from tqdm.auto import tqdm

                self._bar = tqdm(total=self._total, initial=self._done - nbytes, desc=self._what, unit="B", unit_scale=True)
            self._show = self._bar is not None
        if self._bar is not None:
            self._bar.update(nbytes)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
