"""`python -m render`: every object of a stack as YAML, Helm's included, without a cluster.

The program runs under the SDK's mocks with the settings of Pulumi.STACK.yaml; no CLI, no plugin and
no cluster is asked. Secrets are `[secret]`. With --base or --base-ref it is compared with the same
program as it was, run by its own code with its own settings.
Exit codes: 0, and 2 if the program refuses its settings or a release cannot be rendered; nothing is
written then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from render import files, program
from render.checkout import checkout
from render.document import document
from render.program import Recorded
from review import helm
from review.manifests import compare
from review.objects import Declared, Side, declared
from review.preview import BadInputError, Op, parse
from review.report import Reviewed, report


def main(argv: Sequence[str] | None = None, runner: helm.Runner = helm.run) -> int:
    """Runs the command and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", type=Path, default=Path(), help="the checkout (default: .)")
    parser.add_argument("--stack", default="dev", help="whose settings (default: dev)")
    parser.add_argument(
        "--config", action="append", default=[], metavar="KEY=VALUE",
        help="a setting on top of the stack's own, the base's too; lists and objects as JSON",
    )  # fmt: skip
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", type=Path, metavar="DIR", help="a checkout to compare with")
    base.add_argument("--base-ref", metavar="REF", help="a git ref to compare with")
    parser.add_argument("--full", action="store_true", help="all of a comparison, however long")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write one YAML file per object")
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="write the steps as `pulumi preview --json --show-sames` does; helm is not needed",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if not options.out and not options.json:
        parser.error("nothing to write: give --out, --json or both")
    try:
        with _base(options) as folder:
            _render(options, folder, runner)
    except (BadInputError, helm.RenderError, OSError, yaml.YAMLError) as error:
        print(f"render: {error}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def _base(options: argparse.Namespace) -> Iterator[Path | None]:
    """The checkout to compare with, if any."""
    if options.base_ref is None:
        yield options.base
    else:
        with checkout(options.base_ref, options.program) as folder:
            yield folder


def _render(options: argparse.Namespace, base: Path | None, runner: helm.Runner) -> None:
    """Runs what is to be run, then writes what was asked for."""
    overrides = _overrides(options.config)
    old = None if base is None else before(base, options.stack, overrides)
    new = program.run(program.read(options.program, options.stack, overrides))
    for said in new.diagnostics:
        print(f"{said['severity']}: {said['message']}", file=sys.stderr)
    if options.out:
        objects = _objects(new, options.program, runner)
        lines: list[str] = []
        if base is not None and old is not None:
            name = f"{options.stack}, compared with {options.base_ref or base}"
            lines = _difference(name, _objects(old, base, runner), objects, full=options.full)
        texts = files.files(objects)
        files.write(options.out, texts)
        print("\n".join([f"{len(texts)} objects in {options.out}", *lines]), flush=True)
    if options.json:
        text = json.dumps(document(new, old), indent=1, sort_keys=True)
        options.json.write_text(f"{text}\n", encoding="utf-8")


def _difference(
    name: str, old: Iterable[Declared], new: Iterable[Declared], *, full: bool
) -> list[str]:
    difference = compare(*({one.key: one.item for one in side} for side in (old, new)))
    found = Reviewed(name=name, op=Op.UPDATE, notes=[], difference=difference)
    return list(report(found, full=full))


def before(base: Path, stack: str, overrides: Mapping[str, str]) -> Recorded:
    """What the base asks for: nothing where it does not have the stack yet.

    Raises:
        BadInputError: It is no program, refuses its settings, or fails.
    """
    if (base / "Pulumi.yaml").is_file() and not (base / f"Pulumi.{stack}.yaml").is_file():
        print(f"the base has no Pulumi.{stack}.yaml: every object is new", file=sys.stderr)
        return Recorded(states={})
    try:
        return program.run(program.read(base, stack, overrides))
    except BadInputError as error:
        raise BadInputError(f"the base: {error}") from error


def _objects(recorded: Recorded, folder: Path, runner: helm.Runner) -> list[Declared]:
    """The objects of a program, with the charts and post-renderers of its own checkout."""

    def inside(argv: Sequence[str], stdin: str) -> helm.Done:
        with contextlib.chdir(folder):
            return runner(argv, stdin)

    if not recorded.states:
        return []
    steps = parse(json.dumps(document(recorded)))
    return declared(steps, Side.AFTER, helm.Source(runner=inside), notes=[])


def _overrides(words: Sequence[str]) -> dict[str, str]:
    """The settings of --config.

    Raises:
        BadInputError: One is not KEY=VALUE.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise BadInputError(
                f"--config {word}: allowed: KEY=VALUE, e.g. --config mtlsMode=STRICT"
            )
        found[key] = value
    return found


if __name__ == "__main__":
    sys.exit(main())
