"""What `--before` and `--if-strict` print: edges whose answer differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TextIO

from tlscheck import report
from tlscheck.compare import Changed
from tlscheck.documents import printable
from tlscheck.rows import Effective, Warning

COLUMNS = ("SRC", "DST", "PORT", "SUBSET", "BEFORE", "AFTER", "WHY")
SIGNED = COLUMNS.index("AFTER")
NO_EDGE = "-"


def edge(one: Changed) -> str:
    """One edge that is neither new nor gone, in a few words."""
    subset = f" subset {one.subset}" if one.subset else ""
    name = f"{one.client} -> {report.short(one.host)}:{one.port}{subset}"
    return printable(f"{name} goes from {one.before} to {one.after}")


def table(edges: Iterable[Changed], out: TextIO, *, colours: bool) -> None:
    """Print them, clients with the same answer on one line."""
    folded: dict[tuple[str | Effective | None, ...], list[str]] = {}
    for one in edges:
        name = report.short(one.host)
        # the host alone says enough where the service is its workload's only one
        to = name if one.server == one.host else f"{name} > {one.server.rpartition('/')[2]}"
        key = (to, str(one.port), one.subset or NO_EDGE, one.before, one.after, one.why)
        folded.setdefault(key, []).append(one.client)
    signs = {True: "✅", False: "❌"}
    cells = [
        [printable(cell or NO_EDGE) for cell in (report.names(clients), *key)]
        for key, clients in folded.items()
    ]
    modes = [key[SIGNED - 1] for key in folded]
    for row, mode in zip(cells, modes, strict=True):
        row[SIGNED] += f" {signs[mode in report.SECURE]}" if mode else ""
    rows, heads = report.padded_to(COLUMNS, cells)
    # the sign is two cells wide
    heads[SIGNED] += " "
    out.write("  ".join(heads).rstrip() + "\n")
    for row, mode in zip(rows, modes, strict=True):
        if isinstance(mode, Effective):
            row[SIGNED] = report.paint(row[SIGNED], mode, colours=colours)
        out.write("  ".join(row).rstrip() + "\n")


def as_json(edges: Iterable[Changed], warnings: Sequence[Warning], out: TextIO) -> None:
    """Print them in the terms of the other JSON, one a line, as they are found."""
    out.write('{"edges": [')
    comma = "\n"
    for one in edges:
        entry: dict[str, object] = {"from": one.client, "to": one.server}
        entry |= {"host": one.host, "port": one.port}
        entry |= {"subset": one.subset} if one.subset is not None else {}
        entry |= {"before": one.before, "after": one.after}
        entry |= {"worse": one.worse, "better": one.better, "why": one.why}
        out.write(comma + json.dumps(entry))
        comma = ",\n"
    said = [{"code": w.code, "subject": w.subject, "text": w.text} for w in warnings]
    out.write(f'\n],\n"warnings": {json.dumps(said, indent=1)}}}\n')
