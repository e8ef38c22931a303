"""With one user id: rules that ask for a mark, and an Envoy that sets it."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from lab.node.container import Surroundings, launcher
from lab.node.images import Image
from lab.node.single_uid import adapt, marking, wrapper

PROXY = Image(
    entrypoint=("/usr/local/bin/pilot-agent",),
    user=1337,
    programs={"pilot-agent": Path("/tools/pilot-agent"), "envoy": Path("/tools/envoy")},
    files={"/template": Path("/tools/template")},
)

# what istio-init 1.31 prints with DNS capture, a line of each sort
INPUT = """\
* nat
-N ISTIO_REDIRECT
-N ISTIO_OUTPUT
-N ISTIO_OUTPUT_DNS
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-port 15053
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
* raw
-N ISTIO_INBOUND
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1
COMMIT
"""


@pytest.fixture
def rules(tmp_path: Path) -> list[str]:
    """What an `iptables-restore` gets to see."""
    script = tmp_path / "iptables-restore"
    script.write_text(wrapper(shutil.which("cat") or ""))
    # `cat -n` numbers what it reads: the rules went through it, and its argument reached it
    command = ["sh", str(script), "-n"]
    done = subprocess.run(command, input=INPUT, capture_output=True, text=True, check=True)
    return [line.split("\t")[1] for line in done.stdout.splitlines()]


def test_rules_about_istios_user_ask_for_the_mark_instead(rules: list[str]) -> None:
    asking = [line.partition(" -m ")[2] for line in rules if " -m " in line]
    assert asking == [
        "mark --mark 1337 -j ISTIO_IN_REDIRECT",
        "mark ! --mark 1337 -j RETURN",
        "mark --mark 1337 -j RETURN",
    ]


def test_istiods_port_passes_before_anything_is_captured(rules: list[str]) -> None:
    output = [line for line in rules if line.startswith("-A ISTIO_OUTPUT")]
    assert output[0] == "-A ISTIO_OUTPUT -p tcp --dport 15012 -j RETURN"
    assert output[-1] == "-A ISTIO_OUTPUT -j ISTIO_REDIRECT"
    assert sum("15012" in line for line in rules) == 1


def test_dns_is_not_captured(rules: list[str]) -> None:
    assert [line for line in rules if "15053" in line or "CT" in line.split()] == []


def test_every_other_rule_stays_as_it_is(rules: list[str]) -> None:
    changed = ("owner", "15053", "-j CT")
    untouched = [r for r in INPUT.splitlines() if not any(word in r for word in changed)]
    kept = [line for line in rules if " -m " not in line and "15012" not in line]
    assert kept == untouched


def test_a_failed_restore_fails(tmp_path: Path) -> None:
    script = tmp_path / "iptables-restore"
    script.write_text(wrapper(shutil.which("false") or ""))
    assert subprocess.run(["sh", str(script)], input=b"", check=False).returncode == 1


def test_envoy_marks_a_socket_before_it_connects() -> None:
    manager = marking()["cluster_manager"]
    assert isinstance(manager, dict)
    (option,) = manager["upstream_bind_config"]["socket_options"]
    assert (option["level"], option["name"]) == (socket.SOL_SOCKET, socket.SO_MARK)
    assert (option["int_value"], option["state"]) == (1337, "STATE_PREBIND")


def test_the_proxy_gets_the_bootstrap_and_the_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"iptables-restore": "/sbin/a", "iptables-nft-restore": "/sbin/b"}
    monkeypatch.setattr(shutil, "which", installed.get)
    image = adapt(PROXY, tmp_path)
    override = image.environment["ISTIO_BOOTSTRAP_OVERRIDE"]
    assert json.loads(image.files[override].read_text()) == marking()
    assert image.files["/template"] == PROXY.files["/template"]
    # a program that the machine lacks must not look installed: istio-init would choose it
    assert image.programs.keys() == PROXY.programs.keys() | installed.keys()
    for name, real in installed.items():
        script = image.programs[name]
        assert script.read_text() == wrapper(real)
        assert script.stat().st_mode & stat.S_IXUSR


def test_any_other_image_stays_as_it_is(tmp_path: Path) -> None:
    image = Image(entrypoint=("python",))
    assert adapt(image, tmp_path) is image
    assert list(tmp_path.iterdir()) == []


def _launcher(folder: Path, *, single_uid: bool) -> str:
    surroundings = Surroundings(
        pod={"metadata": {"name": "p" * 70}, "spec": {}, "status": {}},
        folder=folder,
        logs=folder,
        netns="pod-1",
        environment={},
        single_uid=single_uid,
    )
    return launcher(surroundings, {"name": "istio-proxy", "image": "proxyv2"}, PROXY)


@pytest.mark.parametrize("single_uid", [True, False])
def test_only_with_one_user_id_anything_is_adapted(tmp_path: Path, *, single_uid: bool) -> None:
    script = _launcher(tmp_path, single_uid=single_uid)
    assert ("ISTIO_BOOTSTRAP_OVERRIDE" in script) is single_uid
    assert (tmp_path / "bootstrap.json").exists() is single_uid


def test_an_ordinary_user_names_the_host_without_the_files_of_root(tmp_path: Path) -> None:
    script = _launcher(tmp_path, single_uid=True)
    assert "/proc/sys/" not in script
    (line,) = [line for line in script.splitlines() if "sethostname" in line]
    assert line.split()[-1] == "p" * 63, "the kernel takes 64 characters, a DNS label 63"
