"""The faults of the bench, and a run of it."""

from __future__ import annotations

import json
import random
import secrets
import time
from typing import TYPE_CHECKING, Final

from lab.chaos import (
    SETTINGS,
    STACK,
    Bench,
    Fault,
    Row,
    Typed,
    last,
    points,
    steps,
    table,
)
from lab.lifecycle import LabError, down, running, up
from lab.paths import LabPaths
from lab.sandbox import Isolation
from lab.stack import open_stack

if TYPE_CHECKING:
    from collections.abc import Sequence

UP: Final = ("up", "--yes", "--skip-preview")
DESTROY: Final = ("destroy", "--yes", "--skip-preview")
_BETWEEN_S = 5
"""The longest time from a step to a kill; a Helm release takes about as long."""


def edited(bench: Bench) -> str:
    """Objects of Pulumi's own, changed and deleted by somebody else."""
    bench.must("kubectl", "label", "namespace", "bookinfo", "istio-injection-")
    permissive = json.dumps({"spec": {"mtls": {"mode": "PERMISSIVE"}}})
    for where, name in _policies(bench):
        patch = ("patch", "peerauthentication", name, "--type=merge", "-p", permissive)
        bench.must("kubectl", "-n", where, *patch)
    return "label removed, STRICT made PERMISSIVE"


def deleted(bench: Bench) -> str:
    """Objects of Pulumi's own, gone."""
    for where, name in _policies(bench):
        bench.must("kubectl", "-n", where, "delete", "peerauthentication", name)
    return "PeerAuthentication deleted"


def two_updates(bench: Bench) -> str:
    """A second update while the first one runs."""
    bench.destroy()
    first = bench.start(*UP)
    for text in first.stdout or ():
        if "istio-namespace" in text:
            break
    code, said = bench.up()
    first.communicate()
    if code == 0 or first.returncode:
        raise LabError(f"the first ended with {first.returncode}, the second with {code}")
    return f"the second was refused: {last(said)}"


def _policies(bench: Bench) -> list[tuple[str, str]]:
    """Namespace and name of every PeerAuthentication."""
    found = json.loads(bench.must("kubectl", "get", "peerauthentications", "-A", "-o", "json"))
    return [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found["items"]]


FAULTS: Final = (
    Fault(name="two-updates", strike=two_updates),
    Fault(name="edited", strike=edited, heals=Typed.REFRESH),
    Fault(name="deleted", strike=deleted, heals=Typed.REFRESH),
)
"""All but the kills."""


def kills(up_lines: int, destroy_lines: int, count: int, seed: int) -> list[Fault]:
    """Kills of an update and of a destroy in turn, half of each with all of their plugins."""

    def one(words: Sequence[str], line: int, *, all_of_it: bool, after_s: float) -> Fault:
        def strike(bench: Bench) -> str:
            if words is UP:
                bench.destroy()
            # between two steps there is time, too: Helm is at work then
            return bench.killed(words, line, all_of_it=all_of_it, wait=lambda: time.sleep(after_s))

        # a half-uninstalled release is uninstalled to its end, and not installed over
        most = Typed.UP if words is UP else Typed.DESTROY
        return Fault(name=f"kill-{words[0]}-{line}", strike=strike, heals=most)

    chosen = random.Random(seed)  # noqa: S311 (it repeats a run)
    half = -(-count // 2)
    ups = points(up_lines, half, seed, of="up")
    destroys = points(destroy_lines, count - half, seed, of="destroy")
    found = []
    for i in range(half):
        for words, lines in ((UP, ups), (DESTROY, destroys)):
            if i < len(lines):
                after_s, all_of_it = chosen.uniform(0, _BETWEEN_S), chosen.random() < 0.5  # noqa: PLR2004
                found.append(one(words, lines[i], all_of_it=all_of_it, after_s=after_s))
    return found


def learn(bench: Bench) -> tuple[int, int]:
    """Do everything once undisturbed: how many steps an update and a destroy have.

    Raises:
        LabError: one of them failed.
    """
    lines = []
    for words in (UP, DESTROY, UP):
        code, said = bench.pulumi(*words)
        if code:
            raise LabError(f"pulumi {words[0]} fails undisturbed:\n{said}")
        lines.append(len(list(steps(said.splitlines()))))
    bench.wanted = bench.found()
    return lines[0], lines[1]


def chaos(around: LabPaths, *, seed: int | None, only: str | None, count: int, limit_s: int) -> int:
    """Run the bench, on a lab that is started for it and gone afterwards.

    Args:
        around: the lab of the checkout, which is left alone; its folder gets another one inside.
        seed: repeats a run's kills; None: any.
        only: faults whose name begins with this; None: all.
        count: how many kills, of an update and of a destroy together.
        limit_s: seconds after which no other fault is begun.

    Returns:
        The exit code: 1 if a fault did not heal with what it is said to heal with.

    Raises:
        LabError: the lab did not start or runs no pods, or there is no such fault.
        ToolchainError: a program could not be had.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    print(f"seed {seed}", flush=True)
    end = time.monotonic() + limit_s
    paths = LabPaths(state=around.state / "chaos")
    try:
        up(paths)
        lab = running(paths)
        if lab is None or lab.isolation is not Isolation.ROOT:
            raise LabError("the bench needs a lab that root has started")
        bench = Bench(paths, open_stack(STACK, paths))
        bench.set(**SETTINGS)
        faults = [*kills(*learn(bench), count, seed), *FAULTS]
        chosen = [one for one in faults if one.name.startswith(only or "")]
        if not chosen:
            names = ", ".join(one.name for one in faults)
            raise LabError(f"ONLY is {only!r}; allowed: the beginning of one of {names}")
        rows, left_out = suffer(bench, chosen, end)
    finally:
        down(paths)
    print(f"\n{table(rows, left_out)}")
    return 0 if all(row.ok for row in rows) else 1


def suffer(bench: Bench, faults: Sequence[Fault], end: float) -> tuple[list[Row], list[str]]:
    """One fault after the other, until the clock says `end`; also the names of the others."""
    rows: list[Row] = []
    for number, fault in enumerate(faults):
        if time.monotonic() > end:
            return rows, [one.name for one in faults[number:]]
        row = bench.suffer(fault)
        rows.append(row)
        typed = row.typed.command if row.typed is not None else "NOTHING HELPED"
        print(f"{row.fault}: {row.happened}\n  {typed}, {row.seconds:.0f} s", flush=True)
        if row.typed is None:
            # the next fault hits a whole stack again
            bench.heal(Typed.DESTROY)
    return rows, []
