"""Builds tools from pinned Go modules, and copies data out of Istio's module.

Checksums are verified: go.sum lists every module, and nothing here switches that off. The Go
build cache is the user's own (GOCACHE), for three reasons: a killed build goes on from it, a new
pin compiles only what changed (a private cache deleted after success would cost the full time
again), and Go itself drops what has not been used for five days.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from lab.toolchain.console import Progress, note
from lab.toolchain.sources import Found, ToolchainError, cache_root
from lab.toolchain.table import (
    ACTIONLINT,
    GO,
    PROMETHEUS,
    SHARED,
    STAMPS,
    Module,
    Tool,
    dotted,
    parse_version,
)

OLDEST_GO: Final = (1, 26)
"""What every go.mod file asks for."""

FLAGS: Final = (
    # neither debug information nor inlining: a third less to compile, and nothing here is hot
    "-gcflags=all=-dwarf=false -l",
    "-ldflags=-s -w " + " ".join(f"-X {name}={value}" for name, value in STAMPS.items()),
)

_SETTINGS: Final = {
    "CGO_ENABLED": "0",
    # the compiler's own garbage collector off: a fifth less time, for up to 2.2 GB of memory
    "GOGC": "off",
    "GOFLAGS": "-mod=readonly -buildvcs=false",
    "GOWORK": "off",
}

_USERS_OWN: Final = {
    *("GOAUTH", "GOCACHE", "GOENV", "GOMODCACHE", "GONOPROXY", "GOPATH", "GOPROXY", "GOROOT"),
    *("GOSUMDB", "GOTMPDIR", "GOTOOLCHAIN"),
}
"""The settings of Go that a user may bring; any other would change what is built."""

_CLEANS_UP_S: Final = 5
"""How long an interrupted go command has to remove what it had begun."""

_WAYS_OUT: Final = """\
Ways out: install Go 1.26 or newer (https://go.dev/dl) and run the same command again; or put the
tools on PATH (`python -m lab.toolchain list` names the versions); or, where the publishers' sites
can be reached, allow downloads for all but pilot-discovery and pilot-agent: unset LAB_TOOLS."""

_MODULES: Final[tuple[Module, ...]] = ("tools", "provider", "prometheus", "actionlint")

_HOMES: Final[Mapping[str, tuple[Module, ...]]] = {
    "tools": ("tools", "provider"),
    "prometheus": ("prometheus",),
    "actionlint": ("actionlint",),
}
"""Folders of the cache, and whose programs are there. A new pin makes one of them new."""


_MORE_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    # of the places where Prometheus finds targets only Kubernetes: a third of the packages goes
    "prometheus": (
        "-tags=remove_all_sd,enable_kubernetes_sd",
        f"-ldflags=-s -w -X github.com/prometheus/common/version.Version={PROMETHEUS}",
    ),
    "actionlint": (f"-ldflags=-s -w -X github.com/rhysd/actionlint.version={ACTIONLINT}",),
}
"""What one module's build has besides; of two flags of one name the later one counts."""


def digest(go: Path = GO, group: str = "tools") -> str:
    """A short name for everything that decides what a build gives."""
    how = (FLAGS, _SETTINGS, platform.system(), platform.machine())
    hashed = hashlib.sha256(repr(how).encode())
    if group in _MORE_FLAGS:
        hashed.update(repr(_MORE_FLAGS[group]).encode())
    for path in sorted(path for module in _HOMES[group] for path in (go / module).iterdir()):
        hashed.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return hashed.hexdigest()[:12]


def home(module: Module = "tools") -> Path:
    """The folder of what the present pins give; another pin, another folder."""
    group = next(name for name, modules in _HOMES.items() if module in modules)
    return cache_root() / f"{group}-{digest(group=group)}"


def built(tool: Tool) -> Found | None:
    """The tool as an earlier build left it."""
    path = home(tool.module) / "bin" / tool.name
    if tool.package is None or not path.exists():
        return None
    package = tool.package if tool.package != "." else f"lab/toolchain/go/{tool.module}"
    return Found(path=path, version=tool.builds, source=f"build: {package}")


class _Said(list[str]):
    """The lines that a go command has printed so far."""

    @property
    def fetched(self) -> int:
        """How many modules were downloaded."""
        return sum(line.startswith("go: downloading") for line in self)

    @property
    def packages(self) -> int:
        """How many packages `go list` has listed or `go build -v` compiled: one path a line."""
        return sum(" " not in line for line in self)


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GO") or k in _USERS_OWN}
    return kept | _SETTINGS


def _go(arguments: Sequence[str], module: Module, show: Callable[[_Said], None]) -> _Said:
    """Run a go command in a module, calling `show` every second. ToolchainError if it fails."""
    if (go := shutil.which("go")) is None:
        raise ToolchainError(f"Go is not installed, or not on PATH.\n{_WAYS_OUT}")
    said = _Said()
    with subprocess.Popen(
        [go, *arguments],
        cwd=GO / module,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a group of its own, so that an interruption ends the compilers too
        start_new_session=True,
    ) as process:

        def listen() -> None:
            for line in process.stdout or ():
                said.append(line.rstrip())

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            while listener.is_alive():
                listener.join(timeout=1)
                show(said)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
                try:
                    process.wait(_CLEANS_UP_S)
                except subprocess.TimeoutExpired:
                    # what a script has put into the background ignores SIGINT
                    os.killpg(process.pid, signal.SIGKILL)
            listener.join()
            raise
    if process.returncode:
        raise ToolchainError("\n".join([f"`go {arguments[0]}` failed:", *said[-15:]]))
    return said


def check_go() -> str:
    """The version of Go that would build, e.g. "go1.26.8".

    Raises:
        ToolchainError: Go is missing, or older than the modules ask for.
    """
    # inside the module, because there Go changes to a newer release of itself where it may
    said = " ".join(_go(["version"], "tools", lambda _: None))
    version = parse_version(said)
    if version is None or version < OLDEST_GO:
        raise ToolchainError(f"{dotted(OLDEST_GO)} is needed, this is: {said}\n{_WAYS_OUT}")
    return f"Go {dotted(version)}"


def _build_module(module: Module, packages: dict[str, str], into: Path) -> None:
    progress, paths = Progress(), list(packages.values())
    more = _MORE_FLAGS.get(module, ())

    def fetching(said: _Said) -> None:
        progress.show(f"module {module}: fetched {said.fetched} Go modules")

    expected = _go(["list", "-deps", *more, *paths], module, fetching).packages
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=into.parent) as partial:
        staging = Path(partial)

        def compiling(said: _Said) -> None:
            linked = sum(1 for _ in staging.iterdir())
            progress.show(
                f"module {module}: compiled {said.packages} of at most {expected} packages, "
                f"linked {linked} of {len(packages)} programs"
            )

        # a folder for several programs; for a single one the name that it shall have
        output = staging / next(iter(packages)) if len(packages) == 1 else staging
        arguments = ["build", "-v", *FLAGS, *more, "-o", str(output), *paths]
        compiled = _go(arguments, module, compiling).packages
        for program in staging.iterdir():
            program.replace(into / program.name)
    note(
        f"module {module}: compiled {compiled} packages, linked {len(packages)} programs, "
        f"{progress.elapsed}"
    )


def build(tools: Iterable[Tool]) -> None:
    """Build these tools, those of one module in one call so that shared packages compile once.

    A program comes into the cache only when its module's build has succeeded.

    Raises:
        ToolchainError: Go is missing or too old, a module cannot be fetched, or a build failed.
    """
    wanted = [tool for tool in tools if tool.package]
    if not wanted:
        return
    note(
        f"building {', '.join(tool.name for tool in wanted)} with {check_go()}. On 2 cores all of "
        "it takes 10 to 20 minutes and 9 GB of disk, once; interrupted, it goes on from there"
    )
    for module in _MODULES:
        packages = {tool.name: tool.package or "" for tool in wanted if tool.module == module}
        if packages:
            into = home(module) / "bin"
            into.mkdir(parents=True, exist_ok=True)
            _build_module(module, packages, into)


def copy_writable(source: Path, target: Path) -> None:
    """Copy a file or folder; Go's module cache is read-only, the copy is not."""
    if source.is_file():
        shutil.copyfile(source, target)
        return
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)


def copy_shared(name: str, target: Path) -> None:
    """Put data of Istio's module at `target` without building anything.

    Raises:
        ToolchainError: Go is missing or too old, or the module cannot be fetched.
    """
    check_go()
    said = _go(["mod", "download", "-json", "istio.io/istio"], "tools", lambda _: None)
    copy_writable(Path(json.loads("".join(said))["Dir"]) / SHARED[name], target)
