"""What is printed: a table of edges, one pair with its reasons, JSON, JUnit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from tlscheck.advice import Facts, advise
from tlscheck.documents import printable
from tlscheck.evaluate import Summary, rows
from tlscheck.proxies import Observed
from tlscheck.rows import Effective, Row, Warning
from tlscheck.world import World

SECURE = frozenset({Effective.ISTIO_MUTUAL, Effective.HBONE})
"""Mutual TLS with the mesh's identities on both sides."""
SHOWN = 2
"""Names of a fold that are printed; the rest is counted."""
COLUMNS = ("SRC", "DST", "PORT", "SUBSET", "CLIENT", "SERVER", "TLS", "WHY")
SIGNED = COLUMNS.index("TLS")
GREEN, RED, YELLOW = "32", "31", "33"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Connections that get one answer: each of the clients to each of the servers."""

    clients: tuple[str, ...]
    servers: tuple[str, ...]
    """Endpoints; none when all endpoints of the service get the answer."""
    row: Row
    """One of them."""


class Testimony(Protocol):
    """What a witness says of a connection."""

    @property
    def trouble(self) -> bool:
        """Whether that cannot be, by the objects."""

    @property
    def text(self) -> str:
        """In a few words."""

    def as_json(self) -> dict[str, Any]:
        """For machines; `agrees` is whether it is as the objects say, None = cannot be told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """Who saw what really happens."""

    name: str
    """Without an article."""
    disagrees: str
    """A sentence that says so."""
    observe: Callable[[Row], Testimony]
    tell: Callable[[Row], Iterable[str]]
    """In sentences."""


Witnesses = Sequence[Witness]


def answer(row: Row) -> tuple[object, ...]:
    """What must be equal for two connections to share a line."""
    rules = (row.client_rule, row.server_rule)
    return row.host, row.port, row.subset, row.client, row.server, row.effective, row.reason, *rules


def fold(found: Iterable[Row], witnesses: Witnesses = ()) -> list[Line]:
    """Join the connections that get the same answer, from objects and from witnesses."""
    servers: dict[tuple[object, ...], list[Row]] = {}
    for row in found:
        seen = tuple(one.observe(row).text for one in witnesses)
        servers.setdefault((row.client_name, seen, *answer(row)), []).append(row)
    clients: dict[tuple[object, ...], list[list[Row]]] = {}
    for (_, *key), same in servers.items():
        clients.setdefault((*key, frozenset(row.server_name for row in same)), []).append(same)
    return [
        Line(
            clients=tuple(sorted(same[0].client_name for same in group)),
            servers=tuple(sorted(row.server_name for row in group[0])),
            row=group[0][0],
        )
        for group in clients.values()
    ]


def expand(world: World, folded: Summary, clients: tuple[str, ...]) -> Iterator[Line]:
    """The lines of a summary's entry: several when its endpoints differ."""
    # a client that is an endpoint lacks the row to itself: two of them see every endpoint
    seen = {
        row.server_name: row
        for client in folded.first_two
        for row in rows(world, client, folded.host, folded.port)
        if row.subset == folded.subset
    }
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in seen.values():
        groups.setdefault(answer(row), []).append(row)
    for group in groups.values():
        servers = tuple(sorted(row.server_name for row in group))
        callers = clients
        if len(servers) == 1 and servers[0] in clients:
            alone = servers[0]
            if not _calls_itself(world, group[0], alone):
                callers = tuple(client for client in clients if client != alone)
        if callers:
            yield Line(clients=callers, servers=servers if len(groups) > 1 else (), row=group[0])


def _calls_itself(world: World, like: Row, client: str) -> bool:
    found = rows(world, client, like.host, like.port)
    return any(row.server_name == client and row.subset == like.subset for row in found)


# --- table ----------------------------------------------------------------------------------------


def short(host: str) -> str:
    """A service's name without what every name of the cluster ends with."""
    return host.split(".svc.", 1)[0]


def names(of: Sequence[str]) -> str:
    """`cli/c, cli/d (+3)`."""
    rest = f" (+{len(of) - SHOWN})" if len(of) > SHOWN else ""
    return ", ".join(of[:SHOWN]) + rest


def edge(row: Row) -> str:
    """One connection in a few words."""
    subset = f" subset {row.subset}" if row.subset else ""
    name = f"{row.client_name} -> {row.server_name} {short(row.host)}:{row.port}{subset}"
    return printable(f"{name} is {row.effective}")


def concerned(row: Row) -> tuple[str, ...]:
    """Subjects of warnings that have to do with a connection."""
    name, _, namespace = short(row.host).partition(".")
    pods = [
        f"{kind} {pod}"
        for kind in ("Pod", "Deployment")
        for pod in (row.client_name, row.server_name)
    ]
    rules = f"DestinationRule {row.client_rule}", f"PeerAuthentication {row.server_rule}"
    return (f"Service {namespace}/{name}", *rules, *pods)


def verdict(modes: Iterable[Effective]) -> str:
    """`ISTIO_MUTUAL ✅`; several modes are `MIXED ❌` unless each of them is mutual TLS."""
    distinct = sorted(set(modes))
    secure = bool(distinct) and SECURE.issuperset(distinct)
    name = " + ".join(distinct) if secure or len(distinct) == 1 else "MIXED"
    return f"{name} {'✅' if secure else '❌'}"


def paint(text: str, mode: Effective, *, colours: bool) -> str:
    """The text in the colour of its mode."""
    colour = GREEN if mode in SECURE else RED if mode is Effective.CONFLICT else YELLOW
    return f"\x1b[{colour}m{text}\x1b[0m" if colours else text


def table(lines: Sequence[Line], out: TextIO, *, colours: bool, witnesses: Witnesses = ()) -> None:
    """Print the edges, those of a service together."""
    columns = (*COLUMNS[:-1], *(one.name.upper() for one in witnesses), COLUMNS[-1])
    ordered = sorted(
        lines,
        key=lambda e: (
            short(e.row.host).split(".")[::-1],
            e.row.port,
            e.row.subset or "",
            e.clients,
        ),
    )
    cells = [
        tuple(
            printable(cell)
            for cell in (
                names(line.clients),
                short(line.row.host)
                + (
                    f" > {names([s.rpartition('/')[2] for s in line.servers])}" * bool(line.servers)
                ),
                line.row.port,
                line.row.subset or "-",
                line.row.client,
                line.row.server,
                verdict([line.row.effective]),
                *(one.observe(line.row).text for one in witnesses),
                line.row.why,
            )
        )
        for line in ordered
    ]
    padded, heads = padded_to(columns, cells)
    # the sign in the column TLS is two cells wide
    heads[SIGNED] += " "
    out.write("  ".join(heads).rstrip() + "\n")
    for line, row in zip(ordered, padded, strict=True):
        row[SIGNED] = paint(row[SIGNED], line.row.effective, colours=colours)
        out.write("  ".join(row).rstrip() + "\n")


def padded_to(
    columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[str]]:
    """The rows of a table and its heads, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    heads, *rows = (list(map(str.ljust, row, widths)) for row in (columns, *cells))
    return rows, heads


def pair(
    lines: Sequence[Line],
    facts: Facts,
    out: TextIO,
    *,
    colours: bool,
    witnesses: Witnesses = (),
) -> None:
    """Print one pair: its edges, what decided, what to change; the verdict is the last line."""
    table(lines, out, colours=colours, witnesses=witnesses)
    for line in lines:
        row = line.row
        subset = f" subset {row.subset}" if row.subset else ""
        edge = f"{names(line.clients)} -> {names(line.servers)} port {row.port}{subset}"
        out.write(f"\n{printable(edge)}\n")
        entries = [
            ("client", f"{row.client} ({facts.client_rule(row)})"),
            ("server", f"{row.server} ({facts.server_rule(row)})"),
        ]
        entries += [("why", row.why), *(("change", step) for step in advise(row, facts))]
        entries += [("seen", text) for one in witnesses for text in one.tell(row)]
        for label, text in entries:
            out.write(f"  {label + ':':8}{printable(text)}\n")
    modes = [line.row.effective for line in lines]
    worst = next((mode for mode in modes if mode not in SECURE), modes[0])
    said = verdict(modes)
    against = [w.name for w in witnesses if any(w.observe(line.row).trouble for line in lines)]
    if against:
        others = " and ".join(f"the {name}" for name in against)
        worst, said = Effective.CONFLICT, f"{said[:-1]}by the objects, not by {others} ❌"
    out.write("\n" + paint(f"TLS Mode: {said}", worst, colours=colours) + "\n")


def sightings(observed: Observed) -> Iterator[str]:
    """What each proxy told, a line a side."""
    for name, side in observed.sides:
        if side.mode is None:
            yield f"{name} {side.pod} was not read"
            continue
        parts = ["no such endpoint yet" if side.agrees is None else side.mode]
        if side.certificate:
            ends = "until" if side.valid else "NOT VALID, ends"
            parts.append(f"{side.certificate.identity} {ends} {side.certificate.expires}")
        if side.connections:
            opened, failed = side.connections
            parts.append(f"{opened} connections opened, {failed} failed")
        if side.handshakes is not None:
            parts.append(f"{side.handshakes} TLS handshakes")
        yield f"{name} {side.pod} has {', '.join(parts)}"


def remarks(warnings: Iterable[Warning], ignored: Mapping[str, int], out: TextIO) -> None:
    """Print what is odd about the configuration, and what was not looked at."""
    for warning in warnings:
        text = f"warning: {warning.code} {warning.subject}: {warning.text}"
        out.write(printable(text) + "\n")
    if ignored:
        kinds = (f"{kind} {count}" for kind, count in sorted(ignored.items()))
        out.write(f"not looked at: {printable(', '.join(kinds))}\n")


# --- for machines ---------------------------------------------------------------------------------


def as_json(
    found: Iterable[Row],
    warnings: Sequence[Warning],
    ignored: Mapping[str, int],
    out: TextIO,
    *,
    witnesses: Witnesses = (),
) -> None:
    """Print rows in the terms of the case file, one a line, as they are found."""
    out.write('{"rows": [')
    comma = "\n"
    for row in found:
        entry: dict[str, object] = {"from": row.client_name, "to": row.server_name}
        entry |= {"host": row.host, "port": row.port}
        entry |= {"subset": row.subset} if row.subset is not None else {}
        entry |= {"client": row.client, "server": row.server, "effective": row.effective}
        entry |= {"ok": row.ok, "why": row.why}
        entry |= {"client_rule": row.client_rule, "server_rule": row.server_rule}
        entry |= {"observed": _observed(row, witnesses)} if witnesses else {}
        out.write(comma + json.dumps(entry))
        comma = ",\n"
    said = [{"code": w.code, "subject": w.subject, "text": w.text} for w in warnings]
    rest = f'"warnings": {json.dumps(said, indent=1)},\n"ignored": {json.dumps(dict(ignored))}'
    out.write(f"\n],\n{rest}}}\n")


def _observed(row: Row, witnesses: Witnesses) -> dict[str, Any]:
    told = [one.observe(row).as_json() for one in witnesses]
    said = {one["agrees"] for one in told}
    # one that saw nothing takes nothing away from what another saw
    agrees = {"agrees": False if False in said else True if True in said else None}
    return {key: value for one in (*told, agrees) for key, value in one.items()}


def as_junit(
    found: Sequence[Row], fails: Callable[[Row], str], warnings: Sequence[Warning], out: TextIO
) -> None:
    """Print a test case per connection; `fails` says why one fails, or nothing."""
    from xml.sax.saxutils import escape, quoteattr  # noqa: PLC0415 # start-up time

    verdicts = [(row, fails(row)) for row in found]
    failures = sum(bool(why) for _, why in verdicts)
    counts = f'tests="{len(verdicts)}" failures="{failures}" errors="0"'
    out.write('<?xml version="1.0" encoding="UTF-8"?>\n')
    out.write(f'<testsuites {counts}>\n<testsuite name="tlscheck" {counts}>\n')
    for row, why in verdicts:
        subset = f" subset {row.subset}" if row.subset else ""
        name = quoteattr(printable(f"{row.server_name} {row.host}:{row.port}{subset}"))
        out.write(f"<testcase classname={quoteattr(printable(row.client_name))} name={name}")
        if why:
            text = escape(printable(f"client {row.client}, server {row.server}: {row.why}"))
            out.write(
                f"><failure message={quoteattr(printable(why))}>{text}</failure></testcase>\n"
            )
        else:
            out.write("/>\n")
    said = "\n".join(printable(f"{w.code} {w.subject}: {w.text}") for w in warnings)
    out.write(f"<system-out>{escape(said)}</system-out>\n</testsuite>\n</testsuites>\n")
