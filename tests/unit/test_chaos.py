"""The bench of faults: which points a seed picks, what counts as declared, and what a row says."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from lab import stack
from lab.chaos import (
    Bench,
    Fault,
    Row,
    Typed,
    children,
    differences,
    fingerprint,
    last,
    points,
    steps,
    table,
)
from lab.chaos_faults import FAULTS, kills, suffer
from lab.lifecycle import LabError
from lab.paths import LabPaths

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = Row(fault="a", happened="b", allowed=Typed.UP, typed=Typed.UP, seconds=1.2)


def item(kind: str = "Service", **parts: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "x", "namespace": "n"}, **parts}


# --- the choice


def test_a_seed_picks_the_same_points_again_and_another_seed_others() -> None:
    assert points(100, 10, 7, of="up") == points(100, 10, 7, of="up")
    assert points(100, 10, 7, of="up") != points(100, 10, 8, of="up")
    assert points(100, 10, 7, of="up") != points(100, 10, 7, of="destroy")


def test_points_lie_inside_the_run_in_the_order_of_time_and_none_comes_twice() -> None:
    found = points(12, 10, 3, of="up")
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert found[-1] <= 12
    assert points(3, 10, 3, of="up") == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_as_many_kills_as_were_asked_for_are_shared_by_up_and_destroy(count: int) -> None:
    names = [fault.name for fault in kills(60, 60, count, 7)]
    assert len(names) == len(set(names)) == count
    ups = [name for name in names if name.startswith("kill-up-")]
    assert len(ups) == (count + 1) // 2


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))


def test_only_what_the_engine_did_is_a_step_and_not_what_comes_with_the_time() -> None:
    said = [
        "@ updating.......",
        " +  kubernetes:core/v1:Namespace mesh-namespace creating (0s) ",
        "    pulumi:pulumi:Stack service-mesh-chaos running warning: created from $PATH",
        " +  kubernetes:core/v1:Namespace mesh-namespace created (0.1s) ",
        " -  kubernetes:helm.sh/v3:Release istio-istiod deleting (3s) ",
        "Resources:",
    ]
    assert list(steps(said)) == [said[1], said[3], said[4]]


# --- what is compared


@pytest.mark.parametrize("part", ["clusterIP", "clusterIPs", "nodePort"])
def test_what_the_cluster_fills_in_is_no_difference(part: str) -> None:
    one, other = item(spec={"ports": [{part: 1}]}), item(spec={"ports": [{part: 2}]})
    assert fingerprint(one) == fingerprint(other)


def test_the_certificate_that_istiod_writes_into_a_webhook_is_no_difference() -> None:
    hooks = [[{"clientConfig": {"caBundle": text}}] for text in ("a", "b")]
    one, other = (item("ValidatingWebhookConfiguration", webhooks=hook) for hook in hooks)
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"replicas": 0}},
        {"data": {"mesh": "other"}},
        {"rules": []},
        {"metadata": {"name": "x", "namespace": "n", "labels": {"istio-injection": "disabled"}}},
        {"metadata": {"name": "x", "namespace": "n", "deletionTimestamp": "2026-11-23T00:00:00Z"}},
    ],
)
def test_an_edit_is_a_difference(change: dict[str, Any]) -> None:
    before = item("Deployment", spec={"replicas": 1}, data={"mesh": "a"}, rules=[{}])
    assert fingerprint({**before, **change})[1] != fingerprint(before)[1]


def test_differences_name_what_is_missing_unexpected_and_other() -> None:
    wanted, found = {"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}
    assert differences(wanted, found) == ["missing a", "unexpected d", "other b"]
    assert differences(wanted, dict(wanted)) == []


class Cluster(Bench):
    """A cluster with these objects."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = items

    def must(self, *words: str) -> str:
        return json.dumps({"items": [] if "secrets" in words else self.items})

    def run(self, *words: str) -> tuple[int, str]:
        return 1, f"no such kinds: {words}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ConfigMap", "istio-ca-crl"),
        ("ConfigMap", "kube-root-ca.crt"),
        ("ServiceAccount", "default"),
    ],
)
def test_what_controllers_hand_out_in_their_own_time_is_not_what_was_declared(
    kind: str, name: str
) -> None:
    handed_out = item(kind) | {"metadata": {"name": name, "namespace": "n"}}
    assert Cluster(handed_out).found() == {}
    assert list(Cluster(handed_out | {"kind": "Service"}).found()) == [f"Service n/{name}"]


# --- healing


class Patient(Bench):
    """A stack that heals with one thing and nothing less."""

    def __init__(self, cure: Typed | None, *, fails: bool = False) -> None:
        self.cure, self.fails = cure, fails
        self.typed: list[Typed] = []

    def type(self, typed: Typed) -> tuple[int, str]:
        self.typed.append(typed)
        return (1, "error: the stack | is locked") if self.fails else (0, "")

    def declared(self) -> list[str]:
        return [] if self.typed[-1] is self.cure else ["missing Deployment istio-system/istiod"]


class Typing(Bench):
    """Writes down what is run."""

    def __init__(self, releases: dict[str, str], *, code: int = 0) -> None:
        self.there, self.code = releases, code
        self.ran: list[tuple[str, ...]] = []
        self.updated: list[tuple[str, ...]] = []

    def releases(self) -> list[dict[str, str]]:
        return [{"name": name, "namespace": where} for name, where in self.there.items()]

    def run(self, *words: str) -> tuple[int, str]:
        self.ran.append(words)
        return self.code, ""

    def must(self, *words: str) -> str:
        assert words[:3] == ("kubectl", "get", "namespaces")
        going = {"metadata": {"name": "going", "deletionTimestamp": "2026-11-23T00:00:00Z"}}
        return json.dumps({"items": [{"metadata": {"name": "stays"}}, going]})

    def up(self, *words: str) -> tuple[int, str]:
        self.updated.append(words)
        return 0, ""


@pytest.mark.parametrize("cure", list(Typed))
def test_the_plainest_thing_that_helps_is_what_had_to_be_typed(cure: Typed) -> None:
    patient = Patient(cure)
    row = patient.suffer(Fault(name="f", strike=lambda _: "seen", heals=max(cure, Typed.REFRESH)))
    assert row.typed is cure
    plain = [typed for typed in (Typed.UP, Typed.REFRESH) if typed < cure]
    assert patient.typed == [*plain, cure]
    assert row.ok


def test_nothing_is_typed_that_a_fault_should_not_need_and_the_row_fails() -> None:
    patient = Patient(Typed.DESTROY)
    row = patient.suffer(Fault(name="f", strike=lambda _: "seen", heals=Typed.REFRESH))
    assert patient.typed == [Typed.UP, Typed.REFRESH]
    assert row.typed is None
    assert not row.ok
    assert row.happened == "seen" + "".join(
        f"; `{typed.command}`: missing Deployment istio-system/istiod" for typed in patient.typed
    )


def test_a_fault_that_an_update_should_heal_is_not_given_a_refresh() -> None:
    patient = Patient(Typed.REFRESH)
    assert not patient.suffer(Fault(name="f", strike=lambda _: "seen")).ok
    assert patient.typed == [Typed.UP]


def test_an_update_that_fails_heals_nothing_whatever_the_cluster_looks_like() -> None:
    row = Patient(Typed.UP, fails=True).suffer(Fault(name="f", strike=lambda _: "seen"))
    assert not row.ok
    assert "error: the stack / is locked" in row.happened


def test_a_fault_that_could_not_be_done_is_a_row_that_fails_and_ends_nothing() -> None:
    def broken(_: Bench) -> str:
        raise LabError("kubectl delete:\nerror: no such thing")

    row = Patient(Typed.UP).suffer(Fault(name="f", strike=broken))
    assert not row.ok
    assert "no such thing" in row.happened


@pytest.mark.parametrize(
    ("said", "most"),
    [
        ("a\nerror: no room\nb", "error: no room"),
        ("a\n  error: 1 error occurred:\n\t* no room\nb", "error: 1 error occurred: * no room"),
        (
            'error: namespace is "a"\n  allowed: one that stays\n  fix: wait',
            'error: namespace is "a" allowed: one that stays',
        ),
        ("a\nb | c", "b / c"),
        ("", "it said nothing"),
        ("cut off:", "cut off:"),
    ],
)
def test_of_what_a_program_said_the_error_counts_and_else_the_end(said: str, most: str) -> None:
    assert last(said) == most


def test_what_applies_helms_record_again_is_done_for_every_release_and_then_looked_at() -> None:
    patient = Typing({"a": "one", "b": "two"})
    patient.type(Typed.REAPPLY)
    ((*_, script),) = patient.ran
    assert "helm get manifest a --namespace one | kubectl apply" in script
    assert "helm get manifest b --namespace two | kubectl apply" in script
    assert "pipefail" in script
    assert patient.updated == [("--refresh",)]


def test_while_a_namespace_is_deleted_a_refresh_would_be_refused_and_waits() -> None:
    patient = Typing({})
    patient.type(Typed.REFRESH)
    (waited,) = patient.ran
    assert waited[:4] == ("kubectl", "wait", "--for=delete", "namespace/going")
    assert patient.updated == [("--refresh",)]


def test_where_helms_record_cannot_be_applied_there_is_no_update() -> None:
    patient = Typing({"a": "one"}, code=1)
    assert patient.type(Typed.REAPPLY)[0] == 1
    assert patient.updated == []


def test_a_cell_of_the_table_keeps_its_pipe() -> None:
    line = table([dataclasses.replace(WHOLE, typed=Typed.REAPPLY)]).splitlines()[-1]
    assert " \\| kubectl apply" in line


def test_after_the_time_is_over_the_faults_that_are_left_are_named() -> None:
    faults = [Fault(name=name, strike=lambda _: "seen") for name in ("a", "b")]
    rows, left_out = suffer(Patient(Typed.UP), faults, end=0)
    assert rows == []
    assert left_out == ["a", "b"]


def test_the_table_has_a_row_for_each_fault_and_says_what_there_was_no_time_for() -> None:
    worse = dataclasses.replace(WHOLE, fault="c", typed=None)
    lines = table([WHOLE, worse], ["kill-up-3"]).splitlines()
    assert {line.count("|") for line in lines[:-1]} == {6}
    assert "make up | ✅ | 1" in lines[2]
    assert "nothing helped | ❌" in lines[3]
    assert lines[-1] == "no time for: kill-up-3"


def test_the_processes_that_a_process_started_are_found_at_any_depth() -> None:
    nested = "import subprocess,sys;subprocess.run(['sleep','60'])"
    script = f"import subprocess,sys;subprocess.run([sys.executable,'-c',{nested!r}])"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        found: list[int] = []
        while len(found) < 2:
            found = children(process.pid)
        for pid in (process.pid, *found):
            os.kill(pid, 9)
    assert children(process.pid) == []


# --- the lock of an update that was killed


@pytest.fixture
def ended() -> int:
    """The id of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def locked(folder: Path, *owners: dict[str, Any], scheme: str = "file") -> stack.Stack:
    locks = folder / ".pulumi" / "locks" / "organization" / "service-mesh" / "dev"
    locks.mkdir(parents=True)
    for number, owner in enumerate(owners):
        lock = {"hostname": socket.gethostname(), "username": "root", **owner}
        (locks / f"{number}.json").write_text(json.dumps(lock))
    variables = {"PULUMI_BACKEND_URL": f"{scheme}://{folder}"}
    return stack.Stack(name="dev", variables=variables, config=None)


def test_a_lock_whose_process_has_ended_is_that_of_an_update_that_was_killed(
    tmp_path: Path, ended: int
) -> None:
    assert locked(tmp_path, {"pid": ended}).cut_off()


def test_a_lock_whose_process_lives_stays(tmp_path: Path, ended: int) -> None:
    assert not locked(tmp_path, {"pid": ended}, {"pid": os.getpid()}).cut_off()


def test_a_lock_of_another_machine_stays(tmp_path: Path, ended: int) -> None:
    assert not locked(tmp_path, {"pid": ended, "hostname": "another"}).cut_off()


def test_a_lock_of_a_backend_elsewhere_is_not_judged(tmp_path: Path, ended: int) -> None:
    assert not locked(tmp_path, {"pid": ended}, scheme="s3").cut_off()


def test_a_stack_without_locks_was_not_cut_off(tmp_path: Path) -> None:
    assert not locked(tmp_path).cut_off()


URN = "urn:pulumi:dev::p::t::base"


class Recorder(stack.Stack):
    """A stack whose CLI writes down what it is asked, and deletes what it is told to."""

    # a frozen dataclass has no room for them
    asked: ClassVar[list[tuple[str, ...]]] = []
    state: ClassVar[dict[str, Any]] = {}
    failures: ClassVar[list[str]] = []

    def call(self, *words: str, quiet: bool = False) -> int:  # noqa: ARG002
        return 0

    def read(self, *words: str, stdin: str | None = None) -> str:  # noqa: ARG002
        self.asked.append(words)
        if "destroy" in words:
            if self.failures:
                raise LabError(self.failures.pop())
            self.state["resources"] = []
        return json.dumps({"deployment": self.state})


def recorder(folder: Path, pid: int, kind: str | None = None, *failures: str) -> Recorder:
    resource = {"urn": URN}
    pending = [{"type": kind, "resource": resource}] if kind else None
    Recorder.asked.clear()
    Recorder.state.update(pending_operations=pending, resources=[resource])
    Recorder.failures[:] = failures
    found = locked(folder, {"pid": pid})
    return Recorder(name=found.name, variables=found.variables, config=None)


def destroyed(opened: Recorder) -> list[tuple[str, ...]]:
    return [words for words in opened.asked if "destroy" in words]


def test_an_update_after_a_killed_one_takes_its_lock_away_and_looks_at_the_cluster(
    tmp_path: Path, ended: int
) -> None:
    opened = recorder(tmp_path, ended)
    assert "--refresh" in opened.pulumi("up", "--yes")
    assert opened.asked == [
        ("pulumi", "cancel", "--yes", "--stack", "dev"),
        ("pulumi", "stack", "export", "--stack", "dev"),
    ]


def test_an_update_deletes_to_the_end_what_a_killed_one_was_deleting(
    tmp_path: Path, ended: int, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = recorder(tmp_path, ended, "deleting")
    assert "--refresh" in opened.pulumi("up", "--yes")
    [words] = destroyed(opened)
    assert words == (
        *("pulumi", "destroy", "--yes", "--skip-preview", "--non-interactive", "--refresh"),
        *("--target", URN, "--stack", "dev"),
    )
    assert "is deleted to the end: base\n" in capsys.readouterr().err


def test_what_a_killed_update_was_creating_is_not_deleted(tmp_path: Path, ended: int) -> None:
    opened = recorder(tmp_path, ended, "creating")
    opened.pulumi("up", "--yes")
    assert destroyed(opened) == []


def test_what_a_killed_update_had_replaced_is_not_deleted_with_the_old_one(
    tmp_path: Path, ended: int
) -> None:
    opened = recorder(tmp_path, ended, "deleting")
    opened.state["resources"].append({"urn": URN, "delete": True})
    opened.pulumi("up", "--yes")
    assert destroyed(opened) == []


def test_a_deletion_that_fails_beside_that_of_a_plugin_is_begun_again(
    tmp_path: Path, ended: int
) -> None:
    opened = recorder(tmp_path, ended, "deleting", *["release: not found"] * 2)
    opened.pulumi("up", "--yes")
    assert len(destroyed(opened)) == 3


def test_what_cannot_be_deleted_to_the_end_is_said_before_anything_is_updated(
    tmp_path: Path, ended: int
) -> None:
    opened = recorder(tmp_path, ended, "deleting", *["finalizers"] * 3)
    with pytest.raises(LabError, match=r"base cannot be deleted\. finalizers"):
        opened.pulumi("up", "--yes")


def test_a_destroy_after_a_killed_one_takes_its_lock_away(tmp_path: Path, ended: int) -> None:
    opened = recorder(tmp_path, ended)
    assert "--refresh" not in opened.pulumi("destroy", "--yes")
    assert len(opened.asked) == 1


@pytest.mark.parametrize("words", [("preview",), ("stack", "output"), ("config", "set", "a", "b")])
def test_what_changes_nothing_leaves_the_lock_of_a_killed_update(
    tmp_path: Path, ended: int, words: tuple[str, ...]
) -> None:
    opened = recorder(tmp_path, ended)
    opened.pulumi(*words)
    assert opened.asked == []


def test_an_update_leaves_the_lock_of_one_that_runs(tmp_path: Path) -> None:
    opened = recorder(tmp_path, os.getpid())
    assert "--refresh" not in opened.pulumi("up", "--yes")
    assert opened.asked == []


def test_a_setting_cannot_be_changed_where_there_is_no_lab() -> None:
    bench = Bench(LabPaths(), stack.Stack(name="prod", variables={}, config=None))
    with pytest.raises(LabError, match="on a lab"):
        bench.set(mtlsMode="STRICT")
