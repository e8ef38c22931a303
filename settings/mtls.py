"""The settings of mutual TLS: exceptions, and services whose clients are told to use it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

from components.bookinfo import WORKLOADS
from components.mtls import MtlsException, MtlsMode
from settings.reader import (
    DNS_LABEL,
    HIGHEST_PORT,
    Reader,
    Where,
    as_config,
    nearest,
    remove_command,
    set_command,
    written,
)

_APPS = sorted({row.app for row in WORKLOADS})

_SHORTEST_REASON = 10
"""Characters. Long enough that a reason says something."""

_LABEL_KEY = re.compile(
    r"([a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII
)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)


_CUT_OFF = re.compile(r"[^:\s]+:[^\s]+")


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _day(value: object) -> datetime.date | None:
    """A day; None where it is none."""
    try:
        # what the CLI makes of a date without quotes
        return datetime.date.fromisoformat(str(value).removesuffix(" 00:00:00 +0000 UTC"))
    except ValueError:
        return None


class Exceptions:
    """Reads mtlsExceptions."""

    _KEY = "mtlsExceptions"
    _FIELDS = ("selector", "port", "mode", "reason", "expires")
    _SHAPE = (
        "{selector: {LABEL: VALUE}, port: NUMBER or none, mode: MODE, reason: WHY, "
        "expires: YYYY-MM-DD or none}"
    )

    def __init__(self, read: Reader, mode: MtlsMode) -> None:
        self._read = read
        self._mode = mode
        self._today = _today()

    def load(self) -> tuple[MtlsException, ...]:
        """All of them; no two for the same pods and port."""
        example = set_command((self._KEY, 0, "selector", "app"), "NAME")
        items = self._read.data(self._KEY, list, f"a list of {self._SHAPE}", example)
        found: dict[Where, MtlsException] = {}
        for index, item in enumerate(items):
            path: Where = (self._KEY, index)
            noted = len(self._read.problems)
            if isinstance(item, dict):
                exception = self._one(path, item)
            else:
                self._read.refuse(path, item, self._SHAPE, remove_command(path))
            if len(self._read.problems) == noted:
                found[path] = exception
        self._compare(found)
        return tuple(found.values())

    def _one(self, path: Where, item: Mapping[str, object]) -> MtlsException:
        for unknown in sorted(item.keys() - set(self._FIELDS)):
            self._read.refuse_unknown(path, unknown, item[unknown], self._FIELDS)
        return MtlsException(
            selector=self._selector((*path, "selector"), item.get("selector")),
            port=self._port((*path, "port"), item.get("port")),
            mode=self._one_mode((*path, "mode"), item.get("mode")),
            reason=self._reason((*path, "reason"), item.get("reason")),
            expires=self._expires((*path, "expires"), item.get("expires")),
        )

    def _selector(self, path: Where, value: object) -> tuple[tuple[str, str], ...]:
        example = set_command((*path, "app"), "NAME")
        if not isinstance(value, dict) or not value:
            allowed = "labels of the pods it is for, {LABEL: VALUE}; for all pods there is mtlsMode"
            self._read.refuse(path, value, allowed, example)
            return ()
        for label, wanted in value.items():
            scalar = isinstance(wanted, str | int) and _LABEL_VALUE.fullmatch(as_config(wanted))
            if not (scalar and _LABEL_KEY.fullmatch(label)):
                self._read.refuse(
                    (*path, label),
                    wanted,
                    "a Kubernetes label and its value, 63 letters, digits, dots, dashes and "
                    "underscores at most",
                    f"{remove_command((*path, label))} && {example}",
                )
        return tuple(sorted((label, as_config(wanted)) for label, wanted in value.items()))

    def _port(self, path: Where, value: object) -> int | None:
        # a bool is an int to Python
        if value is None or (type(value) is int and 1 <= value <= HIGHEST_PORT):
            return value
        allowed = f"a container port from 1 to {HIGHEST_PORT}, or left out for every port"
        self._read.refuse(path, value, allowed, remove_command(path))
        return None

    def _one_mode(self, path: Where, value: object) -> MtlsMode:
        if isinstance(value, str) and value in set(MtlsMode):
            return MtlsMode(value)
        other = next(mode for mode in MtlsMode if mode is not self._mode)
        fix = set_command(path, nearest(value, list(MtlsMode), other))
        self._read.refuse(path, value, ", ".join(MtlsMode), fix)
        return other

    def _reason(self, path: Where, value: object) -> str:
        if isinstance(value, str) and len(value.strip()) >= _SHORTEST_REASON:
            return value.strip()
        allowed = f"why these pods are different, {_SHORTEST_REASON} characters or more"
        self._read.refuse(path, value, allowed, set_command(path, "WHY THEY ARE DIFFERENT"))
        return ""

    def _expires(self, path: Where, value: object) -> datetime.date | None:
        if value is None:
            return None
        day = _day(value)
        if day is not None and day >= self._today:
            return day
        allowed = f"a day, YYYY-MM-DD, not before today, {self._today}; or left out"
        fix = f"{remove_command(path[:-1])}, or {set_command(path, 'YYYY-MM-DD')}"
        self._read.refuse(path, value, allowed, fix)
        return None

    def _compare(self, found: Mapping[Where, MtlsException]) -> None:
        """Note exceptions that say nothing, say it twice, or of which Istio would drop one."""
        whole = {each.selector: each.mode for each in found.values() if each.port is None}
        before: dict[Where, MtlsException] = {}
        for path, each in found.items():
            otherwise = self._mode if each.port is None else whole.get(each.selector, self._mode)
            rival = next((at for at, one in before.items() if _compete(one, each)), None)
            before[path] = each
            if rival is not None:
                allowed = (
                    f"labels that no pod of {written(rival)} has: Istio obeys only one policy "
                    "for a pod, so both need the same label with different values"
                )
                self._read.refuse(
                    (*path, "selector"), dict(each.selector), allowed, remove_command(path)
                )
            elif self._read.sound("mtlsMode") and each.mode is otherwise:
                allowed = f"another mode than the {otherwise} that these pods have without it"
                self._read.refuse((*path, "mode"), each.mode, allowed, remove_command(path))


def _compete(one: MtlsException, other: MtlsException) -> bool:
    """Whether two exceptions may be for the same pod, unless they are two ports of one policy."""
    if one.selector == other.selector:
        return one.port == other.port
    mine, others = dict(one.selector), dict(other.selector)
    return all(mine[label] == others[label] for label in mine.keys() & others.keys())


def permissive_until(read: Reader, mode: MtlsMode) -> datetime.date | None:
    """The last day of PERMISSIVE as a stage; None where nobody has said."""
    key = "mtlsPermissiveUntil"
    value = read.text(key)
    if not value:
        return None
    day, today = _day(value), _today()
    if read.sound("mtlsMode") and mode is not MtlsMode.PERMISSIVE:
        allowed = f"empty while mtlsMode is {mode}: it is the last day of {MtlsMode.PERMISSIVE}"
        read.refuse(key, value, allowed, remove_command((key,)))
    elif day is None or day < today:
        allowed = f"the last day of {MtlsMode.PERMISSIVE}, YYYY-MM-DD, not before today, {today}"
        fix = (
            f"{set_command((key,), 'YYYY-MM-DD')}, or {set_command(('mtlsMode',), MtlsMode.STRICT)}"
        )
        read.refuse(key, value, allowed, f"{fix} && {remove_command((key,))}")
    return day


def cut_off(read: Reader) -> tuple[str, ...]:
    """Calls that may fail when mutual TLS changes, each once."""
    key = "mtlsCutOff"
    example = set_command((key, 0), "NAMESPACE/WORKLOAD:*")
    items = read.data(key, list, "a list of FROM:TO or FROM:TO:PORT", example)
    for index, item in enumerate(items):
        path = (key, index)
        if not isinstance(item, str) or not _CUT_OFF.fullmatch(item):
            allowed = "FROM:TO or FROM:TO:PORT, patterns of workloads and services, e.g. old/*:*"
            read.refuse(path, item, allowed, set_command(path, "NAMESPACE/WORKLOAD:*"))
        elif item in items[:index]:
            read.refuse(path, item, "every call once", remove_command(path))
    return tuple(map(str, items))


def mtls_hosts(read: Reader) -> tuple[str, ...]:
    """Names of services, each once."""
    example = set_command(("mtlsHosts", 0), "reviews")
    items = read.data("mtlsHosts", list, "a list of names of services", example)
    for index, item in enumerate(items):
        path = ("mtlsHosts", index)
        if not isinstance(item, str) or not DNS_LABEL.fullmatch(item):
            allowed = "the name of a service in the namespace, without a domain"
            read.refuse(path, item, allowed, set_command(path, "reviews"))
        elif item in items[:index]:
            read.refuse(path, item, "every service once", remove_command(path))
    return tuple(map(str, items))


def check_hosts(
    read: Reader,
    hosts: tuple[str, ...],
    mode: MtlsMode,
    exceptions: tuple[MtlsException, ...],
    *,
    bookinfo: bool,
) -> None:
    """Note services that do not exist, or to which mutual TLS would be sent and is refused."""
    if not hosts or not read.sound("mtlsHosts"):
        return
    if mode is MtlsMode.DISABLE:
        read.refuse(
            "mtlsHosts",
            hosts,
            "none while mtlsMode is DISABLE: clients would use mutual TLS where it is refused",
            f"{set_command(('mtlsMode',), MtlsMode.STRICT)}, or {remove_command(('mtlsHosts',))}",
        )
    for index, host in enumerate(hosts):
        if read.sound("bookinfo") and bookinfo and host not in _APPS:
            fix = set_command(("mtlsHosts", index), nearest(host, _APPS, "reviews"))
            allowed = f"a service of Bookinfo: {', '.join(_APPS)}"
            read.refuse(("mtlsHosts", index), host, allowed, fix)
    if not read.sound("mtlsExceptions"):
        return
    for index, exception in enumerate(exceptions):
        refusing = _apps_without_tls(exception, bookinfo=bookinfo)
        for host in sorted(refusing.intersection(hosts)):
            path = ("mtlsExceptions", index)
            allowed = f"STRICT or PERMISSIVE: mtlsHosts makes the clients of {host} use mutual TLS"
            fix = f"{remove_command(path)}, or {remove_command(('mtlsHosts', hosts.index(host)))}"
            read.refuse((*path, "mode"), exception.mode, allowed, fix)


def without_tls(
    mode: MtlsMode, exceptions: tuple[MtlsException, ...], *, bookinfo: bool
) -> set[str]:
    """Services that refuse mutual TLS, all or some of their pods, as far as that is known."""
    if mode is MtlsMode.DISABLE and bookinfo:
        return set(_APPS)
    return {app for one in exceptions for app in _apps_without_tls(one, bookinfo=bookinfo)}


def _apps_without_tls(exception: MtlsException, *, bookinfo: bool) -> set[str]:
    """The services of whose pods this exception makes some refuse mutual TLS, as far as known."""
    if exception.mode is not MtlsMode.DISABLE:
        return set()
    selector = dict(exception.selector)
    if not bookinfo:
        return {selector["app"]} if "app" in selector and exception.port is None else set()
    return {
        row.app
        for row in WORKLOADS
        if selector.items() <= {"app": row.app, "version": row.version}.items()
        and exception.port in (None, row.port)
    }
