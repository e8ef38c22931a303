"""`python -m doctor`: is this cluster fit for the mesh, and is the mesh well?

Before an install it is the preflight, while Istio is installed the after-check, and after a destroy
it lists what is left: which of these is found out by whether there is a Deployment of istiod, and
--expect makes it an error when that is wrong. The cluster is only asked, never changed.
Exit codes: 0, 1 when something fatal was found, 2 when the cluster could not be asked.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn, TextIO

from doctor import report
from doctor.checks import CHECKS
from doctor.model import BadInputError, Phase, judge
from doctor.read import Question, Run, read, read_state


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise it like any other bad input."""
        raise BadInputError(f"{message}; see python -m doctor --help")


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--context", help="context of kubectl")
    made.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig of kubectl")
    made.add_argument(
        *("-n", "--namespace"), action="append", dest="namespaces", metavar="NAMESPACE",
        help="where an update puts things, beside istio-system; repeatable (default: bookinfo)",
    )  # fmt: skip
    made.add_argument(
        "--stack", metavar="PROJECT/STACK",
        help="look for namespaces that this stack left (default: any stack's)",
    )  # fmt: skip
    made.add_argument(
        "--istio-version", metavar="X.Y.Z", help="what is to be installed (default: what is there)"
    )
    made.add_argument(
        "--state", metavar="FILE",
        help="`pulumi stack export`, or -; also says whether Istio should be there",
    )  # fmt: skip
    made.add_argument(
        "--expect", choices=[*Phase], help="what should be there (default: what --state says)"
    )
    made.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return made


def main(
    argv: Sequence[str] | None = None, run: Run | None = None, out: TextIO | None = None
) -> int:
    """Check a cluster, print the report and return the exit code."""
    out = out or sys.stdout
    try:
        options = parser().parse_args(argv)
        _refuse(options)
        state = read_state(options.state, sys.stdin.read) if options.state else None
        question = Question(
            context=options.context,
            kubeconfig=options.kubeconfig,
            namespaces=tuple(options.namespaces or Question().namespaces),
        )
        cluster = replace(
            read(question, run, state),
            stack=options.stack,
            istio_version=options.istio_version,
            expected=Phase(options.expect) if options.expect else None,
        )
    except BadInputError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    outcomes = judge(cluster, CHECKS)
    write = report.as_json if options.output == "json" else report.as_text
    write(cluster, outcomes, out)
    return 0 if report.healthy(outcomes) else 1


def _refuse(options: argparse.Namespace) -> None:
    """What cannot be meant.

    Raises:
        BadInputError: An option has no value that makes sense.
    """
    if options.istio_version and not re.fullmatch(r"\d+\.\d+\.\d+", options.istio_version):
        raise BadInputError(
            f"--istio-version {options.istio_version}: not X.Y.Z, as --istio-version 1.31.1"
        )
    if options.stack and not re.fullmatch(r"[^/]+/[^/]+", options.stack):
        raise BadInputError(
            f"--stack {options.stack}: not PROJECT/STACK, as --stack service-mesh/dev"
        )


if __name__ == "__main__":
    sys.exit(main())
