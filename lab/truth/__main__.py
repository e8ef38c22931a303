"""`python -m lab.truth [--first N]`: the cases of the case file beside a real istiod."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lab.lifecycle import LabError, down
from lab.paths import ROOT, LabPaths
from lab.toolchain import ToolchainError
from lab.truth.compare import Compared, compare, table
from lab.truth.mesh import ROOT_NAMESPACE, Istiod

CASES = ROOT / "tests" / "cases" / "mtls-cases.json"


def run(
    paths: LabPaths, cases: Path = CASES, first: int | None = None
) -> tuple[list[Compared], int]:
    """Compare the cases; returns the rows, and how many cases could not be compared.

    Raises:
        LabError: the lab or istiod did not start.
    """
    istiod = Istiod(paths)
    found: list[Compared] = []
    failed = 0
    for case in json.loads(cases.read_text())["cases"][:first]:
        mesh = case["mesh"]
        if mesh.get("ambient") or mesh.get("rootNamespace", ROOT_NAMESPACE) != ROOT_NAMESPACE:
            print(f"{case['id']}  left out: ambient, or a root namespace of its own")
            continue
        try:
            rows = compare(istiod, case)
        except LabError as error:
            failed += 1
            print(f"{case['id']}  not compared: {error}", flush=True)
            continue
        found += rows
        print(f"{case['id']}  {len(rows)} rows", flush=True)
    istiod.finish()
    return found, failed


def main() -> int:
    """Compare, print, and return 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="python -m lab.truth", description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / ".lab" / "truth")
    parser.add_argument("--cases", type=Path, default=CASES, help="another case file")
    parser.add_argument("--first", type=int, help="only so many cases")
    parser.add_argument("--keep", action="store_true", help="leave the lab running")
    arguments = parser.parse_args()
    paths = LabPaths(state=arguments.state.resolve())
    try:
        found, failed = run(paths, arguments.cases, arguments.first)
    except (LabError, ToolchainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if not arguments.keep:
            down(paths)
    print("\n".join(table(found)))
    return 1 if failed or not all(one.agrees for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
