"""Which edges are meant: the names on the command line, filters, and what must be mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tlscheck import report
from tlscheck.advice import Facts
from tlscheck.compare import Changed
from tlscheck.documents import BadInputError, printable
from tlscheck.evaluate import rows, summary
from tlscheck.rows import Effective, Row
from tlscheck.world import World


def spellings(name: str, facts: Facts) -> list[str]:
    """How a pattern may write a workload: `ns/pod`, `pod.ns`, `pod`, also with its Deployment."""
    namespace, slash, pod = name.partition("/")
    if not slash:
        return [name]
    forms = {pod, facts.owners.get(name, pod)}
    return [form for p in sorted(forms) for form in (f"{namespace}/{p}", f"{p}.{namespace}", p)]


def like(patterns: str, names: Sequence[str]) -> bool:
    """Whether one of the names matches the pattern."""
    return any(fnmatchcase(name, patterns) for name in names)


@dataclass(frozen=True)
class Exceptions:
    """Edges that are named: FROM:TO or FROM:TO:PORT, each a pattern."""

    patterns: tuple[tuple[str, str, str], ...]
    """Client, server or host, and port."""
    facts: Facts

    @classmethod
    def parse(cls, given: Sequence[str], facts: Facts) -> Exceptions:
        """Read them.

        Raises:
            BadInputError: One names no client or no server.
        """
        found = []
        for text in given:
            source, colon, rest = text.partition(":")
            target, _, port = rest.rpartition(":")
            # the names `host:...` and `ep:...` have a colon of their own
            if target in ("", "host", "ep") or not (port == "*" or port.isdigit()):
                target, port = rest, "*"
            if not (source and colon and target):
                raise BadInputError(f"--except {printable(text)}: write FROM:TO or FROM:TO:PORT")
            found.append((source, target, port))
        return cls(tuple(found), facts)

    def name(self, client: str, server: str, host: str, port: int) -> bool:
        """Whether one of them names the edge; clients and servers are pods or workloads."""
        # an exception names a workload or a service
        to = [*spellings(server, self.facts), host, report.short(host)]
        return any(
            like(source, spellings(client, self.facts))
            and like(target, to)
            and like(at, [str(port)])
            for source, target, at in self.patterns
        )


@dataclass(frozen=True)
class Gate:
    """What every edge must be, and which need not."""

    modes: frozenset[str]
    exceptions: Exceptions

    @classmethod
    def parse(cls, require: str | None, exceptions: Exceptions) -> Gate:
        """Read --require.

        Raises:
            BadInputError: A mode does not exist.
        """
        modes = {mode.strip().upper() for mode in (require or "").split(",")} - {""}
        if require is not None and (not modes or not modes <= set(Effective)):
            raise BadInputError(f"--require {printable(require)}: modes are {', '.join(Effective)}")
        if Effective.ISTIO_MUTUAL in modes:
            modes.add(Effective.HBONE)
        return cls(frozenset(modes), exceptions)

    def allows(self, row: Row) -> bool:
        """Whether the connection is as required, or need not be."""
        if not self.modes or row.effective in self.modes or not row.possible:
            return True
        return self.exceptions.name(row.client_name, row.server_name, row.host, row.port)

    def line(self, line: report.Line, world: World) -> bool:
        """Whether all connections of a line are."""
        row = line.row
        if not self.modes or row.effective in self.modes or not row.possible:
            return True
        return bool(self.exceptions.patterns) and all(
            self.allows(one)
            for client in line.clients
            for one in rows(world, client, row.host, row.port)
            if one.subset == row.subset
        )

    def refusal(self, row: Row) -> str:
        """Why a connection fails its test case; without --require only a broken one does."""
        if self.allows(row) and (self.modes or row.ok):
            return ""
        return f"{row.effective}, required is {' or '.join(sorted(self.modes)) or 'a working one'}"


@dataclass(frozen=True)
class Selection:
    """The edges that --namespace, --from and --to leave."""

    namespace: str | None
    source: str | None
    target: str | None
    facts: Facts

    def client(self, name: str) -> bool:
        """Whether edges from here can be shown."""
        return self.source is None or like(self.source, spellings(name, self.facts))

    def host(self, name: str) -> bool:
        """Whether edges to this service can be shown."""
        first = report.short(name).split(".")[0]
        return self.target is None or like(self.target, [name, report.short(name), first])

    def inside(self, client: str, host: str) -> bool:
        """Whether the edge starts or ends in the namespace."""
        of_host = report.short(host).rpartition(".")[2] if ".svc." in host else ""
        return self.namespace in (None, of_host, client.partition("/")[0])

    def has(self, edge: Changed) -> bool:
        """Whether the edge is one of the selection."""
        chosen = self.client(edge.client) and self.host(edge.host)
        return chosen and self.inside(edge.client, edge.host)

    def rows(self, world: World) -> Iterator[Row]:
        """Every connection of the selection."""
        hosts = [h for h in world.services() if self.host(h)] if self.target else [None]
        clients = [c for c in world.clients() if self.client(c)] if self.source else [None]
        for client in clients:
            for host in hosts:
                for row in rows(world, client, host):
                    if self.inside(row.client_name, row.host):
                        yield row

    def lines(self, world: World) -> Iterator[report.Line]:
        """The same, folded."""
        everywhere = frozenset(c for c in world.clients() if self.client(c))
        nearby = frozenset(c for c in everywhere if self.inside(c, ""))
        for folded in summary(world):
            if not self.host(folded.host):
                continue
            wanted = everywhere if self.inside("", folded.host) else nearby
            if self.source or self.namespace:
                shown = (name for names in folded.classes for name in names if name in wanted)
                clients = tuple(sorted(shown))
            else:
                clients = folded.clients
            if clients:
                yield from report.expand(world, folded, clients)

    def observed(self, world: World, witnesses: report.Witnesses) -> Iterator[report.Line]:
        """The same, apart where the witnesses of a line's connections say different things."""
        for line in self.lines(world):
            same = [
                row
                for client in line.clients
                for row in rows(world, client, line.row.host, line.row.port)
                if report.answer(row) == report.answer(line.row)
                and (not line.servers or row.server_name in line.servers)
            ]
            said = {tuple(one.observe(row).text for one in witnesses) for row in same}
            yield from [line] if len(said) == 1 else report.fold(same, witnesses)


def suggest(word: str, names: Sequence[str]) -> str:
    """`; did you mean ...?`, or nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 # start-up time

    by_short = {name.lower(): name for name in names}
    first = word.partition(".")[0]
    close = [name for name in names if first in name.split(".")][:3]
    close = close or [
        by_short[found] for found in get_close_matches(word.lower(), by_short, 3, 0.4)
    ]
    return f"; did you mean {' or '.join(map(printable, close))}?" if close else ""


def find_clients(given: str, world: World, facts: Facts, namespace: str) -> list[str]:
    """The workloads that `<pod>[.<namespace>]` means: one, or the pods of one Deployment.

    Raises:
        BadInputError: None, or several that have nothing to do with one another.
    """
    everyone = world.clients()
    if "/" in given:
        readings = [given]
    else:
        name, _, last = given.rpartition(".")
        readings = [f"{namespace}/{given}", *([f"{last}/{name}"] if name else [])]
    for reading in readings:
        if reading in everyone:
            return [reading]
        place, _, name = reading.partition("/")
        of_owner = [
            c for c in everyone if facts.owners.get(c) == name and c.startswith(f"{place}/")
        ]
        if of_owner:
            return of_owner
    for reading in readings:
        found = [client for client in everyone if client.startswith(reading)] if given else []
        if len({facts.owners.get(client, client) for client in found}) > 1:
            raise BadInputError(f"pod {printable(given)} is not unique: {report.names(found)}")
        if found:
            return found
    known = [f"{pod}.{place}" for place, _, pod in (c.partition("/") for c in everyone)]
    hint = suggest(given, known)
    hint = hint or (f"; there are {report.names(known)}" if known else "; there is none at all")
    raise BadInputError(f"no pod {printable(readings[0])}{hint}")


def find_host(given: str, world: World, namespace: str) -> tuple[str, int | None]:
    """The service that `<host>[:<port>]` means to a client of this namespace.

    Raises:
        BadInputError: There is none.
    """
    name, colon, port = given.partition(":")
    if colon and not (port.isdecimal() and len(port) < len("123456")):
        raise BadInputError(f"{printable(given)}: the port is not a number")
    name, domain = name.rstrip(".").lower(), world.mesh.domain
    known = world.services()
    forms = (name, f"{name}.{namespace}.svc.{domain}", f"{name}.svc.{domain}", f"{name}.{domain}")
    for form in forms:
        if form in known:
            return form, int(port) if colon else None
    for wildcard in known:
        if wildcard.startswith("*.") and name.endswith(wildcard[1:]):
            return wildcard, int(port) if colon else None
    hint = suggest(name, [report.short(host) for host in known])
    raise BadInputError(f"no service {printable(name)} in namespace {namespace}{hint}")
