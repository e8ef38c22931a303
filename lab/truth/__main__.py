"""`python -m lab.truth`: the cases, and random variants of them, beside a real istiod."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path
from typing import Any

from lab.lifecycle import LabError, down
from lab.paths import ROOT, LabPaths
from lab.toolchain import ToolchainError
from lab.truth import speak
from lab.truth.batch import batches
from lab.truth.compare import Compared, compare, differences, total
from lab.truth.mesh import Istiod
from lab.truth.variants import variants

CASES = ROOT / "tests" / "cases"
FILES = (CASES / "mtls-cases.json", CASES / "found-cases.json")


def read(*files: Path) -> list[dict[str, Any]]:
    """The cases of case files."""
    return [case for file in files for case in json.loads(file.read_text())["cases"]]


def run(paths: LabPaths, cases: list[dict[str, Any]]) -> tuple[list[Compared], int]:
    """Compare the cases; returns the rows, and how many batches could not be compared.

    Raises:
        LabError: the lab or istiod did not start.
    """
    ambient = {case["id"] for case in cases if case["mesh"].get("ambient")}
    if ambient:
        print(f"left out, ambient: {', '.join(sorted(ambient))}", flush=True)
    istiod = Istiod(paths)
    found: list[Compared] = []
    failed = 0
    for batch in batches([case for case in cases if case["id"] not in ambient]):
        names = " ".join(part.case["id"] for part in batch.parts)
        try:
            rows = compare(istiod, batch)
        except LabError as error:
            failed += 1
            print(f"{names}: not compared: {error}", flush=True)
            continue
        found += rows
        print("\n".join([f"{names}: {len(rows)} rows", *differences(rows)]), flush=True)
    istiod.finish()
    return found, failed


def keep(differing: list[dict[str, Any]], folder: Path) -> Path:
    """Write cases to a file that `--cases` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "differing-cases.json"
    file.write_text(json.dumps({"cases": differing}, indent=2) + "\n")
    return file


def main() -> int:
    """Compare, print, and return 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="python -m lab.truth", description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / ".lab" / "truth")
    parser.add_argument("--cases", type=Path, help="these cases alone, without variants")
    parser.add_argument("--first", type=int, help="only so many cases")
    parser.add_argument("--variants", type=int, default=72, help="how many random ones")
    parser.add_argument("--seed", type=int, help="repeats a run's variants")
    parser.add_argument("--speak", action="store_true", help="rows of the cases on the wire, too")
    parser.add_argument("--keep", action="store_true", help="leave the lab running")
    arguments = parser.parse_args()
    paths = LabPaths(state=arguments.state.resolve())
    if arguments.cases:
        cases, made = read(arguments.cases)[: arguments.first], []
    else:
        seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
        print(f"seed {seed}")
        cases = read(*FILES)[: arguments.first]
        # cases that are found later do not change what a seed makes
        made = variants(read(FILES[0]), seed, arguments.variants)
    try:
        found, failed = run(paths, [*cases, *made])
        spoken = speak.run(Istiod(paths), paths, cases) if arguments.speak else []
    except (LabError, ToolchainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if not arguments.keep:
            down(paths)
    print(total(found))
    wrong = {one.case for one in found if not one.agrees}
    if differing := [case for case in [*cases, *made] if case["id"] in wrong]:
        file = keep(differing, ROOT / ".lab")
        print(f"again: python -m lab.truth --cases {file.relative_to(ROOT)}")
    if spoken:
        print("\n".join(speak.table(spoken)))
    return 1 if failed or wrong or any(one.problem for one in spoken) else 0


if __name__ == "__main__":
    sys.exit(main())
