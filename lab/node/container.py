"""One container as a process: its mounts, its user, its environment, its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.node import single_uid
from lab.node.network import netns_path
from lab.node.volumes import field
from lab.paths import ROOT

if TYPE_CHECKING:
    from lab.node.api import Json
    from lab.node.images import Image

_HOST_FOLDERS = ("/bin", "/sbin", "/lib", "/lib64", "/usr", "/proc", "/sys", "/dev")
"""What a container shares with this machine: programs and libraries, nothing of its data."""

_HOST_ETC = ("alternatives", "ld.so.cache", "ssl", "localtime")
"""Parts of /etc that programs of the host need to run."""


_SET_HOSTNAME = "import socket, sys; socket.sethostname(sys.argv[1])"


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What the containers of one pod have in common."""

    pod: Json
    """With its address in `status`."""

    folder: Path
    """The pod's folder."""

    logs: Path
    """Where its containers' logs go."""

    netns: str
    """Name of its network namespace."""

    environment: dict[str, str]
    """Variables every container gets."""

    single_uid: bool
    """There is only one user id: do not try to become another."""

    def mounts(self, container: Json) -> list[tuple[Path, str]]:
        """(folder or file, path in the container) of every volume mount."""
        found = []
        for mount in container.get("volumeMounts") or []:
            source = self.folder / "volumes" / mount["name"]
            if mount.get("subPath"):
                source = source / mount["subPath"]
            found.append((source, mount["mountPath"]))
        return found


class Process:
    """A started container."""

    def __init__(self, popen: asyncio.subprocess.Process) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        """Its process id in the lab; also its session and process group."""
        return self._popen.pid

    async def wait(self) -> int:
        """Its exit code, 128 + signal when it was killed; what it left behind is ended."""
        code = await self._popen.wait()
        self.send(signal.SIGKILL)
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and end it when it has not after `grace_s` seconds."""
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._popen.wait(), grace_s)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self._popen.wait()


async def start(surroundings: Surroundings, container: Json, image: Image) -> Process:
    """Start a container.

    Its launcher is a shell script beside the pod's volumes, so that a person can read what was
    mounted and run.

    Raises:
        NotYetError: an environment variable refers to something that does not exist.
    """
    script = surroundings.folder / f"{container['name']}.sh"
    script.write_text(launcher(surroundings, container, image))
    log = surroundings.logs / f"{container['name']}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    user, group = _user(surroundings.pod, container, image)
    with log.open("ab") as output:
        if not surroundings.single_uid:
            os.fchown(output.fileno(), user, group)  # Envoy opens /dev/stdout again, by its path
        process = await asyncio.create_subprocess_exec(
            *("nsenter", f"--net={netns_path(surroundings.netns)}"),
            *("unshare", "--mount", "--uts", "sh", str(script)),
            env={},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Process(process)
    try:
        await _entered(started, surroundings.folder / f"rootfs-{container['name']}")
    except asyncio.CancelledError:
        started.send(signal.SIGKILL)
        raise
    return started


async def _entered(process: Process, root: Path) -> None:
    """Wait until the launcher has made the file system and become the program, or has failed.

    Before that a probe or an exec would find half a container.
    """
    link = Path(f"/proc/{process.pid}/root")
    with contextlib.suppress(OSError):
        while link.readlink().name != root.name:
            await asyncio.sleep(0.01)


def launcher(surroundings: Surroundings, container: Json, image: Image) -> str:
    """The shell script that makes the container's file system and becomes its program."""
    if surroundings.single_uid:
        image = single_uid.adapt(image, surroundings.folder)
    root = surroundings.folder / f"rootfs-{container['name']}"
    root.mkdir(exist_ok=True)
    user, group = _user(surroundings.pod, container, image)
    quote = shlex.quote
    lines = [
        f"# container {container['name']}, image {container['image']}",
        "set -e",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"R={quote(str(root))}",
        "mount -t tmpfs -o mode=755 tmpfs $R",
        'bind() { if [ -d "$1" ]; then mkdir -p "$R$2"; '
        'else mkdir -p "$R${2%/*}"; : >> "$R$2"; fi; mount --rbind "$1" "$R$2"; }',
        "mkdir -p $R/etc $R/run $R/var $R/root; mkdir -m 1777 $R/tmp",
    ]
    for folder in map(Path, _HOST_FOLDERS):
        if folder.is_symlink():
            lines.append(f"ln -s {quote(str(folder.readlink()))} $R{folder}")
        elif folder.exists():
            lines.append(f"bind {folder} {folder}")
    lines += [f"[ ! -e /etc/{name} ] || bind /etc/{name} /etc/{name}" for name in _HOST_ETC]
    for name in ("hosts", "resolv.conf", "passwd"):
        lines.append(f"cp {quote(str(surroundings.folder / 'etc' / name))} $R/etc/{name}")
    # /usr belongs to the host: the image's own programs go over its /usr/local/bin, beside the old
    lines += [
        "bind /usr/local/bin /run/host-local-bin",
        "mount -t tmpfs -o mode=755 tmpfs $R/usr/local/bin",
        'for f in $R/run/host-local-bin/*; do [ ! -e "$f" ] || '
        'ln -s "/run/host-local-bin/${f##*/}" $R/usr/local/bin/; done',
    ]
    for name, source in image.programs.items():
        lines.append(f"rm -f $R/usr/local/bin/{name}")
        lines.append(f"bind {quote(str(source.resolve()))} /usr/local/bin/{name}")
    for target, source in image.files.items():
        lines.append(f"bind {quote(str(source.resolve()))} {quote(target)}")
    for source, target in surroundings.mounts(container):
        lines.append(f"bind {quote(str(source))} {quote(target)}")
    # after the volumes: one on /tmp would hide a checkout that lies there
    lines += [f"bind {quote(str(folder))} {quote(str(folder))}" for folder in _own_folders()]
    if (container.get("securityContext") or {}).get("readOnlyRootFilesystem"):
        # this one mount: the volumes in it stay as they are
        lines.append("mount -o remount,bind,ro $R")
    # only the machine's own root may write /proc/sys/kernel/hostname; the call asks the namespace
    name = surroundings.pod["metadata"]["name"][:63]
    lines.append(shlex.join([sys.executable, "-I", "-S", "-c", _SET_HOSTNAME, name]))
    environment = variables(
        surroundings.pod, container, {**surroundings.environment, **image.environment}
    )
    become = (
        []
        if surroundings.single_uid
        else [
            "setpriv",
            f"--reuid={user}",
            f"--regid={group}",
            "--clear-groups",
        ]
    )
    if user and become:
        become += ["--inh-caps=-all", "--bounding-set=-all"]
    assignments = [f"{name}={value}" for name, value in environment.items()]
    program = ["env", "-i", *assignments, *_command(container, image, environment)]
    inside = f'cd {quote(container.get("workingDir") or "/")} && exec "$@"'
    lines.append(
        shlex.join(["exec", "chroot"])
        + f" $R {shlex.join([*become, 'sh', '-c', inside, 'sh', *program])}"
    )
    return "\n".join([*lines, ""])


def _own_folders() -> list[Path]:
    """What our own programs need besides: Python, its packages, and the lab."""
    shared = [Path(folder) for folder in _HOST_FOLDERS]
    wanted = (Path(sys.base_prefix), Path(sys.prefix), ROOT / "lab")
    return [f for f in wanted if not any(f.is_relative_to(other) for other in shared)]


def variables(pod: Json, container: Json, general: dict[str, str]) -> dict[str, str]:
    """The container's environment, references to earlier variables expanded.

    Args:
        pod: with its address in `status`.
        container: one of its containers.
        general: what every container of the pod gets.
    """
    result = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",  # noqa: S108 (inside the container's own file system)
        "HOSTNAME": pod["metadata"]["name"],
        **general,
    }
    for entry in container.get("env") or []:
        source = entry.get("valueFrom") or {}
        if "fieldRef" in source:
            result[entry["name"]] = field(pod, source["fieldRef"]["fieldPath"])
        elif "resourceFieldRef" in source:
            result[entry["name"]] = _resource(container, source["resourceFieldRef"])
        elif not source:
            result[entry["name"]] = expand(entry.get("value") or "", result)
    return result


def _resource(container: Json, reference: Json) -> str:
    """A resource limit as the downward API gives it; without a limit, the node's capacity."""
    kind, _, resource = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    amount = (resources.get(kind) or {}).get(resource) or limits.get(resource)
    if resource == "cpu":
        return str(max(1, -(-_milli_cpu(amount) // 1000))) if amount else str(os.cpu_count() or 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return str(_bytes(amount) if amount else memory)


def _milli_cpu(amount: str) -> int:
    return int(amount[:-1]) if amount.endswith("m") else int(float(amount) * 1000)


def _bytes(amount: str) -> int:
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}
    for suffix, factor in units.items():
        if amount.endswith(suffix):
            return int(float(amount.removesuffix(suffix)) * factor)
    return int(amount)


def expand(text: str, environment: dict[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does; an unknown name stays as it is."""
    for name, value in environment.items():
        text = text.replace(f"$({name})", value)
    return text


def _command(container: Json, image: Image, environment: dict[str, str]) -> list[str]:
    words = [*(container.get("command") or image.entrypoint), *(container.get("args") or [])]
    return [expand(word, environment) for word in words]


def _user(pod: Json, container: Json, image: Image) -> tuple[int, int]:
    """The numeric user and group the container runs as."""
    general = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    user = own.get("runAsUser", general.get("runAsUser", image.user))
    group = own.get("runAsGroup", general.get("runAsGroup", user))
    return int(user), int(group)
