"""What a person sees while tools are fetched and built. All of it goes to standard error."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

EVERY_S = 20.0
"""Seconds between two progress lines where lines cannot be rewritten (a log, CI)."""


def _print(text: str, *, end: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}toolchain: {text}", end=end, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a line that stays."""
    _print(text, end="\n")


@dataclass(slots=True)
class Progress:
    """A progress line: rewritten on a terminal, repeated every 20 s elsewhere."""

    _started: float = field(default_factory=time.monotonic)
    _printed: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> str:
        """The time since the start, e.g. "3 min 05 s"."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes} min {seconds:02d} s"

    def show(self, text: str) -> None:
        """Show how far the work is and how long it has taken."""
        if sys.stderr.isatty():
            _print(f"{text}, {self.elapsed}", end="")
        elif time.monotonic() - self._printed >= EVERY_S:
            self._printed = time.monotonic()
            note(f"{text}, {self.elapsed}")
