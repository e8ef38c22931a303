"""`python -m tlscheck`: is this connection really mTLS?

  python -m tlscheck <pod>[.<namespace>] <host>[:<port>]    one pair, and what to change
  python -m tlscheck [--namespace N] [--from P] [--to P]    every edge
  python -m tlscheck --before PATH                          edges that differ from those of PATH
  python -m tlscheck --if-strict [NAMESPACE]                edges that STRICT would cut off

Objects come from the cluster of kubectl's context, or, with no cluster needed, from manifests (-f),
from `pulumi stack export` (--stack-state) or `pulumi preview --json --show-sames` (--preview).
With --proxies the sidecars of a cluster are asked, too: what they have, and their certificates.
With --observe, or --prometheus, it is also shown how the connections came that were counted.
Exit codes: 0, 1 when --require is not met, a witness disagrees, an edge is worse than before or
would be cut off; 2 when the input is bad.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, BinaryIO, NoReturn, TextIO, cast

from tlscheck import report, sources
from tlscheck.advice import Facts
from tlscheck.documents import BadInputError, documents, mapping, printable
from tlscheck.edges import Exceptions, Gate, Selection, find_clients, find_host
from tlscheck.evaluate import rows, warnings
from tlscheck.model import MeshConfig
from tlscheck.proxies import Proxies
from tlscheck.rows import Row, Warning
from tlscheck.world import World

SINCE = "1h"
"""Long enough for a connection that is used at all, short enough to be as configured now."""
BROKEN_PIPE = 141
"""What a shell reports of a program that its reader left."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise it like any other bad input."""
        raise BadInputError(f"{message}; see python -m tlscheck --help")


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="tlscheck", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("pod", nargs="?", help="pod by name, by unique prefix or by its Deployment")
    made.add_argument("host", nargs="?", help="service: name (client's namespace), name.ns or FQDN")
    made.add_argument(
        *("-n", "--namespace"),
        help="edges that start or end there; with a pair, the pod's namespace (default: default)",
    )
    pattern = "edges {} workloads that match, e.g. 'shop/*' or reviews.shop"
    made.add_argument("--from", dest="source", metavar="PATTERN", help=pattern.format("from"))
    made.add_argument(
        "--to", dest="target", metavar="PATTERN", help="edges to hosts that match, e.g. 'web.*'"
    )
    given = made.add_argument_group("where the objects are")
    given.add_argument(
        *("-f", "--file"), dest="files", action="append", default=[], metavar="PATH",
        help="YAML or JSON manifests: a file, a folder, or - ; repeatable; JSON is read 20 times "
        "faster, which counts from some 10 MB on",
    )  # fmt: skip
    given.add_argument("--stack-state", metavar="FILE", help="`pulumi stack export`, or -")
    given.add_argument(
        "--preview", metavar="FILE", help="`pulumi preview --json --show-sames`, or -"
    )
    given.add_argument("--context", help="context of kubectl")
    given.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig of kubectl")
    given.add_argument(
        "--proxies", action="store_true",
        help="also ask the running proxies, with kubectl exec (needs pods/exec; narrow it with a "
        "pair, --from or --to on a big mesh); exit with 1 where one disagrees",
    )  # fmt: skip
    given.add_argument(
        "--observe", action="store_true",
        help="also ask the cluster's Prometheus what was seen, through the API server (Service "
        "prometheus, port 9090; needs get of services/proxy); exit with 1 where that disagrees",
    )  # fmt: skip
    given.add_argument(
        "--prometheus", metavar="URL", help="the same, of the Prometheus at this address"
    )
    given.add_argument(
        "--since", metavar="DURATION",
        help=f"how far back it looks, e.g. 30m or 1d12h (default: {SINCE})",
    )  # fmt: skip
    given.add_argument("--mesh-config", metavar="FILE", help="MeshConfig, else ConfigMap istio")
    given.add_argument("--ambient", action="store_true", help="istiod runs with ambient enabled")
    gate = made.add_argument_group("what is printed, and what fails")
    gate.add_argument("-o", "--output", choices=("table", "json", "junit"), default="table")
    gate.add_argument(
        "--require", metavar="MODES",
        help="exit with 1 unless every edge shown is one of these, e.g. ISTIO_MUTUAL; HBONE counts "
        "as ISTIO_MUTUAL: it is mutual TLS with the same identities",
    )  # fmt: skip
    gate.add_argument(
        "--except", dest="excepted", action="append", default=[], metavar="FROM:TO[:PORT]",
        help="edges that need not, or may be worse or cut off: patterns, e.g. "
        "'monitoring/*:*:9090'; repeatable",
    )  # fmt: skip
    other = made.add_argument_group("what a change does")
    other.add_argument(
        "--before", action="append", default=[], metavar="PATH",
        help="show the edges whose answer differs from that of these manifests, like -f",
    )  # fmt: skip
    other.add_argument(
        "--if-strict", nargs="?", const="", metavar="NAMESPACE",
        help="show the edges that work and would not if the PeerAuthentication of the mesh, or of "
        "this namespace, were STRICT",
    )  # fmt: skip
    return made


def load(options: argparse.Namespace, stdin: BinaryIO) -> tuple[sources.Found, MeshConfig]:
    """Read the sources and the mesh's settings.

    Raises:
        BadInputError: One cannot be read.
    """
    found = sources.Found()
    documents_of = [p for p in (options.stack_state, options.preview) if p is not None]
    if [*options.files, *options.before, *documents_of, options.mesh_config].count("-") > 1:
        raise BadInputError("standard input can be read once")
    cluster = kubectl_words(options)
    if options.proxies and (options.files or documents_of):
        raise BadInputError("--proxies asks the proxies of a cluster: leave -f and others out")
    if options.observe and (options.files or documents_of):
        raise BadInputError(
            "--observe asks the Prometheus of a cluster: leave -f and others out, or give its "
            "address with --prometheus"
        )
    if (options.files or documents_of) and cluster:
        raise BadInputError(
            "--context and --kubeconfig are of the cluster: leave -f and others out"
        )
    if not options.files and not documents_of:
        sources.read_cluster(found, cluster)
    sources.read_files(found, options.files, stdin)
    if documents_of:
        from tlscheck import stack  # noqa: PLC0415 # start-up time

        for name, read in (
            (options.stack_state, stack.read_state),
            (options.preview, stack.read_preview),
        ):
            if name is not None:
                with sources.opened(name, stdin) as stream:
                    read(found, stream.read())
    settings = sources.mesh_config(found)
    if options.mesh_config is not None:
        with sources.opened(options.mesh_config, stdin) as stream:
            given = next(documents(stream), None)
            if given is not None and not isinstance(given, dict):
                raise BadInputError("not a MeshConfig: no mapping")
            settings = mapping(given)
    ambient = options.ambient or sources.ambient_enabled(found)
    return found, MeshConfig.parse(settings, ambient=ambient)


def kubectl_words(options: argparse.Namespace) -> list[str]:
    """The arguments that lead kubectl to the cluster."""
    return [
        w for k in ("context", "kubeconfig") if (v := getattr(options, k)) for w in (f"--{k}", v)
    ]


@dataclass(kw_only=True)
class Asked:
    """Who was asked what really happens, and what is odd about the answers."""

    witnesses: list[report.Witness] = field(default_factory=list)
    notes: list[Warning] = field(default_factory=list)


def ask(
    options: argparse.Namespace, found: sources.Found, world: World, judged: Sequence[Row]
) -> Asked:
    """Ask the witnesses of these connections.

    Raises:
        BadInputError: None of the proxies answered, or Prometheus did not.
    """
    asked = Asked()
    if options.proxies:
        proxies = Proxies(world=world)
        proxies.read(judged, kubectl_words(options))
        if proxies.unread and not proxies.witnesses:
            pod, why = next(iter(proxies.unread.items()))
            raise BadInputError(f"no proxy could be asked; {pod}: {why}")
        asked.notes += proxies.warnings(judged)
        asked.witnesses.append(
            report.Witness(
                name="proxies",
                disagrees="the proxies disagree",
                observe=proxies.observe,
                tell=lambda row: report.sightings(proxies.observe(row)),
            )
        )
    if options.observe or options.prometheus is not None:
        from tlscheck import prometheus  # noqa: PLC0415 # start-up time

        traffic = prometheus.Traffic(
            world=world, facts=Facts(found.objects), since=options.since or SINCE
        )
        traffic.read(
            prometheus.over_kubectl(world, found.objects, kubectl_words(options))
            if options.observe
            else prometheus.over_http(options.prometheus)
        )
        asked.notes += traffic.warnings(judged)
        asked.witnesses.append(
            report.Witness(
                name="traffic",
                disagrees="the traffic disagrees",
                observe=traffic.observe,
                tell=traffic.tell,
            )
        )
    return asked


def refuse_halves(options: argparse.Namespace) -> None:
    """Refuse arguments that mean nothing together, before anything is read.

    Raises:
        BadInputError: There are such.
    """
    if options.pod is not None and options.host is None:
        raise BadInputError("a pod alone is half a connection: add the host it calls")
    if options.pod is not None and (options.source or options.target):
        raise BadInputError("--from and --to are for the table; a pair has its two ends")
    if options.observe and options.prometheus is not None:
        raise BadInputError("--observe finds the cluster's Prometheus: leave --prometheus out")
    if options.excepted and not (
        options.require or options.before or options.if_strict is not None
    ):
        raise BadInputError("--except needs --require, --before or --if-strict")
    if options.before or options.if_strict is not None:
        refuse_unfit(options)
    if options.since is not None and not options.observe and options.prometheus is None:
        raise BadInputError("--since is how far back Prometheus looks: add --observe")
    if options.observe or options.prometheus is not None:
        from tlscheck import prometheus  # noqa: PLC0415 # start-up time

        prometheus.seconds(SINCE if options.since is None else options.since)
        if options.prometheus is not None:
            prometheus.over_http(options.prometheus)


def refuse_unfit(options: argparse.Namespace) -> None:
    """Refuse what --before and --if-strict cannot go with.

    Raises:
        BadInputError: There is such.
    """
    asked = "--before" if options.before else "--if-strict"
    unfit = {
        "--if-strict": options.before and options.if_strict is not None,
        "a pair": options.pod is not None,
        "--require": options.require is not None,
        "--proxies": options.proxies,
        "--observe": options.observe,
        "--prometheus": options.prometheus is not None,
        "--output junit": options.output == "junit",
    }
    for name in (name for name, given in unfit.items() if given):
        raise BadInputError(f"{asked} is about edges that change: leave {name} out")
    if options.mesh_config is not None or options.ambient:
        raise BadInputError(
            f"{asked} goes by the ConfigMap istio and the Deployment istiod: give those with -f, "
            "and leave --mesh-config and --ambient out"
        )


def change(options: argparse.Namespace, stdin: BinaryIO, out: TextIO) -> int:
    """Show what a change does to the edges; returns the exit code.

    Raises:
        BadInputError: An input cannot be read, or the namespace does not exist.
    """
    from tlscheck import changes, compare, strict  # noqa: PLC0415 # start-up time

    found, _ = load(options, stdin)
    facts = Facts(found.objects)
    exceptions = Exceptions.parse(options.excepted, facts)
    chosen = Selection(options.namespace, options.source, options.target, facts)
    advice: list[str] = []
    notes = found.notes
    if options.before:
        before = sources.Found()
        sources.read_files(before, options.before, stdin)
        edges = [one for one in compare.compare(before, found) if chosen.has(one)]
        failed = [
            one
            for one in edges
            if one.worse and not exceptions.name(one.client, one.server, one.host, one.port)
        ]
        what, none = "worse than before", "no edge has another answer than before"
        notes = [*before.notes, *found.notes]
    else:
        place = options.if_strict or strict.root_namespace(found)
        strict.check_namespace(found, place)
        cut = strict.cut_off(found, strict.as_if_strict(found, place), options.excepted)
        cut = replace(cut, edges=tuple(filter(chosen.has, cut.edges)))
        edges = failed = [*cut.edges]
        what, none = f"cut off by STRICT in {place}", f"STRICT in {place} cuts nobody off"
        advice = cut.advice()
        if cut.left_out:
            names = report.names(cut.left_out)
            found.note("NOT_COUNTED", "clients", f"{names}: {strict.NOT_COUNTED}")
    if options.output == "json":
        changes.as_json(edges, notes, out)
    else:
        if edges:
            changes.table(edges, out, colours=coloured(out))
        else:
            out.write(f"{printable(none)}\n")
        report.remarks(notes, {}, out)
        for step in advice:
            out.write(f"change: {printable(step)}\n")
    report_failure(what, [changes.edge(one) for one in failed])
    return 1 if failed else 0


def coloured(out: TextIO) -> bool:
    """Whether a person's terminal shows colours."""
    terminal = out.isatty() and os.environ.get("TERM") != "dumb"
    return terminal and not os.environ.get("NO_COLOR")


def report_failure(what: str, failed: Sequence[str]) -> None:
    """Say on standard error what is not as it must be."""
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        print(f"tlscheck: {what}: {failed[0]}{more}", file=sys.stderr)


@dataclass(kw_only=True)
class Shown:
    """What was printed, and what of it is not as required."""

    gate: Gate
    witnesses: report.Witnesses
    seen: int = 0
    """Connections that --require was held against, or lines of them."""
    failed: list[str] = field(default_factory=list)
    empty: dict[str, None] = field(default_factory=dict)
    """Hosts without endpoints: there is no connection that could be as required, or not."""

    def watched(self, edges: Iterable[Row]) -> Iterator[Row]:
        """The connections, each noted as it passes."""
        for row in edges:
            self._count(row)
            if not self.gate.allows(row):
                self.failed.append(report.edge(row))
            yield row

    def lines(self, lines: Sequence[report.Line], world: World) -> None:
        """Note the connections of a table."""
        for one in lines:
            self._count(one.row)
        self.failed = [report.edge(one.row) for one in lines if not self.gate.line(one, world)]

    def _count(self, row: Row) -> None:
        if row.possible:
            self.seen += 1
        else:
            self.empty[report.short(row.host)] = None

    def refusal(self, row: Row) -> str:
        """Why a connection fails its test case, by the objects or by its witnesses."""
        told = [(one.name, one.observe(row)) for one in self.witnesses]
        said = [f"the {name}: {seen.text}" for name, seen in told if seen.trouble]
        return self.gate.refusal(row) or "; ".join(said)


def check(options: argparse.Namespace, stdin: BinaryIO, out: TextIO) -> int:
    """Judge and print; returns the exit code.

    Raises:
        BadInputError: There is nothing to judge.
    """
    refuse_halves(options)
    Gate.parse(options.require, Exceptions.parse(options.excepted, Facts(())))
    if options.before or options.if_strict is not None:
        return change(options, stdin, out)
    found, mesh = load(options, stdin)
    facts = Facts(found.objects)
    gate = Gate.parse(options.require, Exceptions.parse(options.excepted, facts))
    world = World.parse(found.objects, mesh)
    notes = [*found.notes, *warnings(world)]
    chosen = Selection(options.namespace, options.source, options.target, facts)
    pair = None if options.pod is None else pair_rows(options, world, facts)
    edges: Iterator[Row] = chosen.rows(world) if pair is None else iter(pair)
    asked, troubled = Asked(), []
    if options.proxies or options.observe or options.prometheus is not None:
        judged = [*edges]
        asked = ask(options, found, world, judged)
        edges = iter(judged)
        troubled = [
            (one.disagrees, [report.edge(row) for row in judged if one.observe(row).trouble])
            for one in asked.witnesses
        ]
    witnesses = asked.witnesses
    notes += asked.notes
    shown = Shown(gate=gate, witnesses=witnesses)
    if options.output == "json":
        report.as_json(shown.watched(edges), notes, world.ignored, out, witnesses=witnesses)
    elif options.output == "junit":
        report.as_junit([*shown.watched(edges)], shown.refusal, notes, out)
    elif pair is None:
        lines = [*(chosen.observed(world, witnesses) if witnesses else chosen.lines(world))]
        shown.lines(lines, world)
        report.table(lines, out, colours=coloured(out), witnesses=witnesses)
        report.remarks(notes, world.ignored, out)
    else:
        lines = report.fold(pair, witnesses)
        shown.lines(lines, world)
        about = {name for row in pair for name in report.concerned(row)}
        given = [*found.notes, *asked.notes]
        report.remarks([n for n in notes if n in given or n.subject in about], {}, out)
        report.pair(lines, facts, out, colours=coloured(out), witnesses=witnesses)
    if gate.modes and shown.empty:
        hosts = printable(report.names([*shown.empty]))
        print(f"tlscheck: not judged, without endpoints: {hosts}", file=sys.stderr)
    if gate.modes and not shown.seen:
        raise BadInputError("no connection was found, so --require proves nothing")
    failed = [(f"not {options.require}", shown.failed), *troubled]
    for what, broken in failed:
        report_failure(what, broken)
    return 1 if any(broken for _, broken in failed) else 0


def pair_rows(options: argparse.Namespace, world: World, facts: Facts) -> list[Row]:
    """The connections of one pair.

    Raises:
        BadInputError: One of its ends does not exist.
    """
    clients = find_clients(options.pod, world, facts, options.namespace or "default")
    host, port = find_host(options.host, world, clients[0].partition("/")[0])
    every = [row for client in clients for row in rows(world, client, host)]
    found = [row for row in every if port in (None, row.port)]
    if not found:
        ports = ", ".join(map(str, sorted({row.port for row in every})))
        what = f"port {port}, but {ports}" if ports else "endpoint to connect to"
        raise BadInputError(f"{host} has no {what}")
    return found


def main(
    argv: Sequence[str] | None = None,
    stdin: IO[bytes] | IO[str] | None = None,
    stdout: TextIO | None = None,
) -> int:
    """Run the command and return its exit code; whatever the input, it raises nothing."""
    out = stdout or sys.stdout
    given: object = stdin or sys.stdin
    if isinstance(given, io.StringIO):
        given = io.BytesIO(given.read().encode(errors="replace"))
    try:
        options = parser().parse_args(argv)
        return check(options, cast("BinaryIO", getattr(given, "buffer", given)), out)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except BrokenPipeError:
        raise
    except BadInputError as error:
        message = str(error)
    except (RecursionError, MemoryError) as error:
        message = f"the input is too deep or too large ({type(error).__name__})"
    except KeyboardInterrupt:
        message = "interrupted"
    except Exception as error:
        message = f"a defect of tlscheck, not of the input: {type(error).__name__}: {error}"
    with suppress(OSError):
        print(f"tlscheck: {printable(message)}", file=sys.stderr)
    return 2


def run() -> int:
    """The process: a reader that stops reading is no error, a strange character neither."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # else the interpreter complains when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


if __name__ == "__main__":
    sys.exit(run())
