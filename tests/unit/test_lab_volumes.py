"""What a pod's volumes hold, and when they are written anew."""

from __future__ import annotations

import asyncio
import base64
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from lab.node.volumes import NotYetError, Volumes, field

if TYPE_CHECKING:
    from pathlib import Path

    from lab.node.api import Api

CORE = "/api/v1/namespaces/mesh"
META: dict[str, Any] = {"name": "web-0", "namespace": "mesh", "uid": "u-1"}


class FakeApi:
    """Objects by path; tokens are counted."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.tokens: list[tuple[str, dict[str, Any]]] = []

    async def find(self, path: str) -> dict[str, Any] | None:
        return self.objects.get(path)

    async def request(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert method == "POST"
        self.tokens.append((path, body))
        return {"status": {"token": f"token-{len(self.tokens)}"}}


class Node:
    """A pod's volumes in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.api = FakeApi()
        self.folder = folder
        self.time = 1000.0

    def volumes(self, *volumes: dict[str, Any], **spec: Any) -> Volumes:
        pod = {"metadata": META, "spec": {"volumes": [*volumes], **spec}}
        return Volumes(cast("Api", self.api), pod, self.folder)

    def write(self, *volumes: dict[str, Any], **spec: Any) -> dict[str, bytes]:
        """Write these volumes; every file below the folder then."""
        return self.again(self.volumes(*volumes, **spec))

    def again(self, volumes: Volumes) -> dict[str, bytes]:
        asyncio.run(volumes.write())
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path)
    clock = SimpleNamespace(monotonic=lambda: node.time)
    monkeypatch.setattr("lab.node.volumes.time", clock)
    return node


def _base64(text: bytes) -> str:
    return base64.b64encode(text).decode()


def _config(node: Node, **data: str) -> None:
    node.api.objects[f"{CORE}/configmaps/istio"] = {"data": data}


def _mounted(**source: Any) -> dict[str, Any]:
    return {"name": "v", **source}


def _token(**more: Any) -> dict[str, Any]:
    source = {"path": "istio-token", "audience": "istio-ca", **more}
    return _mounted(projected={"sources": [{"serviceAccountToken": source}]})


def test_a_config_map_is_a_file_for_each_key(node: Node) -> None:
    node.api.objects[f"{CORE}/configmaps/istio"] = {
        "data": {"mesh": "rootNamespace: x\n", "empty": ""},
        "binaryData": {"raw": _base64(b"\0\xff")},
    }
    files = node.write(_mounted(configMap={"name": "istio"}))
    assert files == {"v/mesh": b"rootNamespace: x\n", "v/empty": b"", "v/raw": b"\0\xff"}


def test_only_the_items_that_are_listed_are_written_and_under_their_paths(node: Node) -> None:
    _config(node, mesh="1", other="2")
    items = [{"key": "mesh", "path": "config/mesh.yaml"}]
    files = node.write(_mounted(configMap={"name": "istio", "items": items}))
    assert files == {"v/config/mesh.yaml": b"1"}


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ({"configMap": {"name": "istio"}}, "configmap mesh/istio not found"),
        ({"secret": {"secretName": "certs"}}, "secret mesh/certs not found"),
        (
            {"projected": {"sources": [{"secret": {"name": "certs"}}]}},
            "secret mesh/certs not found",
        ),
    ],
)
def test_what_does_not_exist_is_waited_for_by_name(
    node: Node, source: dict[str, Any], missing: str
) -> None:
    with pytest.raises(NotYetError, match=f"^{missing}$"):
        node.write(_mounted(**source))


def test_an_item_that_does_not_exist_is_waited_for_by_name(node: Node) -> None:
    _config(node, mesh="1")
    items = [{"key": "nope", "path": "x"}]
    with pytest.raises(NotYetError, match=r"^configmap mesh/istio has no nope$"):
        node.write(_mounted(configMap={"name": "istio", "items": items}))


def test_what_is_optional_is_an_empty_folder_while_it_does_not_exist(node: Node) -> None:
    volumes = node.volumes(
        _mounted(secret={"secretName": "certs", "optional": True}),
        {"name": "w", "configMap": {"name": "istio", "optional": True}},
    )
    assert node.again(volumes) == {}
    assert (node.folder / "v").is_dir()
    assert (node.folder / "w").is_dir()
    _config(node, mesh="1")
    assert node.again(volumes) == {"w/mesh": b"1"}


def test_a_secret_is_decoded_wherever_it_is_mounted(node: Node) -> None:
    key = b"-----BEGIN\n\xff\0"
    node.api.objects[f"{CORE}/secrets/certs"] = {"data": {"tls.key": _base64(key)}}
    projected = {"sources": [{"secret": {"name": "certs"}}]}
    files = node.write(
        _mounted(secret={"secretName": "certs"}), {"name": "w", "projected": projected}
    )
    assert files == {"v/tls.key": key, "w/tls.key": key}


def test_a_change_arrives_with_the_next_writing(node: Node) -> None:
    volumes = node.volumes(_mounted(configMap={"name": "istio"}))
    for text in ("one", "two"):
        _config(node, mesh=text)
        assert node.again(volumes) == {"v/mesh": text.encode()}


def test_a_file_that_is_equal_is_left_alone_and_another_replaced_whole(node: Node) -> None:
    volumes = node.volumes(_mounted(configMap={"name": "istio"}))
    _config(node, same="1", other="1")
    node.again(volumes)
    same, other = node.folder / "v/same", node.folder / "v/other"
    before = same.stat()
    with other.open() as reader:
        _config(node, same="1", other="2")
        # no file beside them is left over
        assert node.again(volumes) == {"v/same": b"1", "v/other": b"2"}
        # who has the old file open reads the old one: it was not written over
        assert reader.read() == "1"
    assert (same.stat().st_ino, same.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_every_user_can_read_what_is_mounted_and_write_an_empty_dir(node: Node) -> None:
    _config(node, mesh="1")
    node.write(_mounted(configMap={"name": "istio"}), {"name": "w", "emptyDir": {}})
    assert stat.S_IMODE((node.folder / "v/mesh").stat().st_mode) == 0o644
    assert stat.S_IMODE((node.folder / "w").stat().st_mode) == 0o777


def test_an_empty_dir_keeps_what_was_written_into_it(node: Node) -> None:
    volumes = node.volumes(_mounted(emptyDir={"medium": "Memory"}))
    node.again(volumes)
    (node.folder / "v/socket").write_text("1")
    assert node.again(volumes) == {"v/socket": b"1"}


def test_a_token_is_for_its_audience_and_dies_with_the_pod(node: Node) -> None:
    files = node.write(_token(expirationSeconds=43200), serviceAccountName="istiod")
    assert files == {"v/istio-token": b"token-1"}
    ((path, body),) = node.api.tokens
    assert path == f"{CORE}/serviceaccounts/istiod/token"
    assert (body["apiVersion"], body["kind"]) == ("authentication.k8s.io/v1", "TokenRequest")
    assert body["spec"] == {
        "audiences": ["istio-ca"],
        "expirationSeconds": 43200,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web-0", "uid": "u-1"},
    }


def test_without_an_audience_a_token_is_for_the_api_server(node: Node) -> None:
    node.write(_token(audience=""))
    ((path, body),) = node.api.tokens
    assert path == f"{CORE}/serviceaccounts/default/token"
    assert "audiences" not in body["spec"]  # the API server's own default
    assert body["spec"]["expirationSeconds"] == 3600


def test_a_token_is_asked_for_again_only_when_most_of_its_life_is_over(node: Node) -> None:
    volumes = node.volumes(_token(expirationSeconds=1000))
    seen = []
    for node.time in (0.0, 20.0, 799.0, 801.0, 1600.0, 1602.0):
        seen.append(node.again(volumes)["v/istio-token"])
    first, second, third = b"token-1", b"token-2", b"token-3"
    assert seen == [first, first, first, second, second, third]


def test_two_tokens_of_one_pod_are_refreshed_apart(node: Node) -> None:
    volumes = node.volumes(
        _token(expirationSeconds=1000), {**_token(expirationSeconds=5000), "name": "w"}
    )
    node.again(volumes)
    node.time += 900
    node.again(volumes)
    assert [body["spec"]["expirationSeconds"] for _, body in node.api.tokens] == [1000, 5000, 1000]


def test_a_projected_volume_is_all_of_its_sources_in_one_folder(node: Node) -> None:
    _config(node, **{"root-cert.pem": "pem"})
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "istio"}},
        {"downwardAPI": {"items": [_item("namespace", "metadata.namespace")]}},
    ]
    files = node.write(_mounted(projected={"sources": sources}))
    assert files == {"v/token": b"token-1", "v/root-cert.pem": b"pem", "v/namespace": b"mesh"}


def _item(path: str, reference: str) -> dict[str, Any]:
    return {"path": path, "fieldRef": {"fieldPath": reference}}


def test_the_downward_api_gives_labels_in_order_and_in_quotes(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(META, "labels", {"version": "v1", "app": "web"})
    monkeypatch.setitem(META, "annotations", {"note": 'say "hi"\nagain', "path": "a\\b"})
    items = [_item("labels", "metadata.labels"), _item("annotations", "metadata.annotations")]
    files = node.write(_mounted(downwardAPI={"items": items}))
    assert files["v/labels"].splitlines() == [b'app="web"', b'version="v1"']
    # one line each: Go's quotes, as istio-agent reads them
    assert files["v/annotations"].splitlines() == [
        rb'note="say \"hi\"\nagain"',
        rb'path="a\\b"',
    ]


def test_the_downward_api_escapes_nothing_that_go_cannot_read(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(META, "annotations", {"note": "\U0001f600"})
    files = node.write(_mounted(downwardAPI={"items": [_item("a", "metadata.annotations")]}))
    # half a surrogate pair, as JSON escapes it, is no character in Go's quotes
    assert files["v/a"].decode() == 'note="\U0001f600"'


def test_the_last_label_of_the_downward_api_ends_without_a_newline(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(META, "labels", {"version": "v1", "app": "web"})
    files = node.write(_mounted(downwardAPI={"items": [_item("l", "metadata.labels")]}))
    assert files == {"v/l": b'app="web"\nversion="v1"'}


def test_the_downward_api_follows_a_change_of_labels(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = node.volumes(_mounted(downwardAPI={"items": [_item("l", "metadata.labels")]}))
    assert node.again(volumes) == {"v/l": b""}
    monkeypatch.setitem(META, "labels", {"app": "web"})
    assert node.again(volumes)["v/l"].strip() == b'app="web"'


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.uid", "u-1"),
        ("spec.serviceAccountName", "web"),
        ("status.podIP", "10.244.0.9"),
        ("metadata.labels['app.kubernetes.io/name']", "web"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['absent']", ""),
    ],
)
def test_a_field_is_the_pods_own(path: str, value: str) -> None:
    pod = {
        "metadata": {**META, "labels": {"app.kubernetes.io/name": "web"}},
        "spec": {"serviceAccountName": "web"},
        "status": {"podIP": "10.244.0.9"},
    }
    assert field(pod, path) == value


def test_a_field_that_a_pod_has_not_is_an_error_that_names_it() -> None:
    with pytest.raises(KeyError, match=r"spec\.nothing"):
        field({"spec": {}}, "spec.nothing")


def test_a_volume_of_a_kind_that_the_lab_has_not_is_named(node: Node) -> None:
    with pytest.raises(NotYetError, match="no volumes of kind hostPath"):
        node.write(_mounted(hostPath={"path": "/"}))
