"""Objects from manifests, a cluster, a Pulumi state and a Pulumi preview."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tlscheck import sources, stack
from tlscheck.documents import BadInputError, documents, plain, printable
from tlscheck.evaluate import rows
from tlscheck.model import MeshConfig
from tlscheck.world import World

Json = dict[str, Any]
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
CASES = Path(__file__).parents[1] / "cases" / "mtls-cases.json"


def read(text: str | bytes) -> list[object]:
    return [*documents(io.BytesIO(text.encode() if isinstance(text, str) else text))]


def thing(kind: str, name: str, namespace: str = "shop", **more: object) -> Json:
    api = {"PeerAuthentication": "security.istio.io/v1", "Deployment": "apps/v1"}.get(kind, "v1")
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **more,
    }


# --- documents ------------------------------------------------------------------------------------


def test_yaml_is_read_as_pyyaml_reads_it() -> None:
    cases = json.loads(CASES.read_text())["cases"]
    objects = [item for case in cases for item in case["objects"]]
    assert read(yaml.dump_all(objects)) == objects


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8080", 8080),
        ("-5", -5),
        ("0", 0),
        ("0x1F", 31),
        ("017", 15),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("1:30", "1:30"),
        ("089", "089"),
        ("v1", "v1"),
        ("-", "-"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_plain_scalar_is_what_kubernetes_takes_it_for(text: str, value: object) -> None:
    assert plain(text) == value
    assert type(plain(text)) is type(value)


def test_keys_are_text_as_in_json() -> None:
    assert read("{8080: a, true: b, null: c}") == [{"8080": "a", "true": "b", "null": "c"}]


def test_anchors_merges_and_tags_are_understood() -> None:
    text = "a: &x {b: 1, c: 1}\nd: {<<: *x, c: 2}\ne: {<<: [*x, {f: 3}]}\ng: !!str 5\nh: '5'"
    assert read(text) == [
        {
            "a": {"b": 1, "c": 1},
            "d": {"b": 1, "c": 2},
            "e": {"b": 1, "c": 1, "f": 3},
            "g": "5",
            "h": "5",
        }
    ]


def test_json_documents_may_follow_one_another() -> None:
    assert read('\ufeff{"a": 1}\n{"b": [2]} ') == [{"a": 1}, {"b": [2]}]


def test_flow_yaml_that_begins_like_json_is_yaml() -> None:
    assert read("{a: 1}\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]


def test_a_pipe_can_be_read() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError

    assert [*documents(Pipe(b"a: 1"))] == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", r"line 1, column 5"),
        ("{a: b", "not YAML"),
        ("a: *b", "used before"),
        ("a: &a [*a]", "used before"),
        ("a: &a {b: *a}", "used before"),
        ("[" * 100_000, "nested more than 200"),
        ('{"a":' * 100_000, "nested more than 200"),
        ("a: {{ .Values.x }}", "template"),
        ("? [a]\n: b", "template"),
        (b"\x00\x01\x02", "not YAML"),
        (b"\xff\xfe\xfa", "not YAML"),
        (b"\x89PNG\r\n\x1a\n", "not YAML"),
        ("a: !<tag", "not YAML"),
        ("%YAML 9.9\n---\na: 1", "not YAML"),
        ("\t- a", "not YAML"),
    ],
)
def test_what_is_not_yaml_is_one_line(text: str | bytes, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)


# --- files ----------------------------------------------------------------------------------------


def files(*paths: object, stdin: bytes = b"") -> sources.Found:
    found = sources.Found()
    sources.read_files(found, map(str, paths), io.BytesIO(stdin))
    return found


def test_a_folder_gives_its_manifests_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.json").write_text(json.dumps(thing("Pod", "b")))
    (tmp_path / "a.yml").write_text("kind: Pod\nmetadata: {name: a1}\n---\nkind: Pod\n---\n")
    (tmp_path / "README.md").write_text("- no manifest: [")
    found = files(tmp_path)
    assert [item.get("metadata", {}).get("name") for item in found.objects] == ["a1", None, "b"]


def test_lists_and_lists_of_lists_are_opened() -> None:
    inner = {"kind": "PodList", "items": [thing("Pod", "a")]}
    outer = {"kind": "List", "items": [inner, thing("Pod", "b"), None, 7]}
    found = files("-", stdin=json.dumps([outer, thing("Pod", "c")]).encode())
    assert [item["metadata"]["name"] for item in found.objects] == ["a", "b", "c"]
    assert [note.code for note in found.notes] == ["NOT_AN_OBJECT"]


def test_aliases_of_aliases_do_not_multiply() -> None:
    levels = ["l0: &l0 [{kind: Pod}]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 30)]
    text = "\n".join(levels)
    document = read(text)[0]
    assert isinstance(document, dict)
    found = sources.Found()
    sources.add(found, document["l29"], "here")
    assert len(found.objects) == 1


def test_secrets_are_not_kept() -> None:
    found = files("-", stdin=json.dumps(thing("Secret", "s", data={"k": "aHVudGVy"})).encode())
    assert found.objects == [{"apiVersion": "v1", "kind": "Secret"}]


@pytest.mark.parametrize("stdin", [b"just words", b"7", b"'{}'", b"# comment\n--- text"])
def test_a_document_that_is_no_object_is_refused(stdin: bytes) -> None:
    with pytest.raises(BadInputError, match=r"^-: .*not Kubernetes objects"):
        files("-", stdin=stdin)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"nowhere\.yaml: No such file"):
        files(tmp_path / "nowhere.yaml")
    with pytest.raises(BadInputError, match=r"no \.yaml, \.yml or \.json"):
        files(tmp_path)
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(BadInputError, match=r"x\.yaml: not YAML"):
        files(tmp_path)
    with pytest.raises(BadInputError, match="null byte"):
        files("a\0b")


def test_mesh_settings_come_from_the_config_map_of_the_root_namespace() -> None:
    def config(namespace: str, mesh: str) -> Json:
        return thing("ConfigMap", "istio", namespace, data={"mesh": mesh})

    found = sources.Found(
        objects=[
            thing("ConfigMap", "istio", "dashboards", data={"other": "x"}),
            config("old", "rootNamespace: istio-system\nenableAutoMtls: true"),
            config("mesh", "rootNamespace: mesh\nenableAutoMtls: false"),
        ]
    )
    assert sources.mesh_config(found) == {"rootNamespace": "mesh", "enableAutoMtls": False}
    broken = sources.Found(objects=[config("istio-system", "a: [")])
    with pytest.raises(BadInputError, match="ConfigMap istio-system/istio: not YAML"):
        sources.mesh_config(broken)


@pytest.mark.parametrize(("value", "on"), [("true", True), ("false", False)])
def test_istiod_tells_whether_it_runs_ambient(value: str, *, on: bool) -> None:
    env = [{"name": "OTHER"}, {"name": "PILOT_ENABLE_AMBIENT", "value": value}]
    template = {"spec": {"containers": [{"name": "discovery", "env": env}]}}
    istiod = thing("Deployment", "istiod", "istio-system", spec={"template": template})
    assert sources.ambient_enabled(sources.Found(objects=[istiod])) is on


# --- cluster --------------------------------------------------------------------------------------


class Kubectl:
    """Plays kubectl."""

    def __init__(self, *, missing: Sequence[str] = (), error: str = "") -> None:
        self.missing, self.error = missing, error
        self.calls: list[list[str]] = []

    def __call__(self, argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        self.calls.append([*argv])
        if "api-resources" in argv:
            return self._done("\n".join(k for k in sources.KINDS if k not in self.missing))
        if self.error:
            return self._done("", self.error)
        if "configmaps" in argv:
            return self._done(json.dumps({"kind": "List", "items": [thing("ConfigMap", "istio")]}))
        asked = argv[argv.index("get") + 1].split(",")
        for kind in self.missing:
            if kind in asked:
                return self._done("", f'error: the server doesn\'t have a resource type "{kind}"')
        return self._done(json.dumps({"kind": "List", "items": [thing("Pod", "a")]}))

    @staticmethod
    def _done(out: str, error: str = "") -> subprocess.CompletedProcess[bytes]:
        code = 1 if error else 0
        return subprocess.CompletedProcess([], code, out.encode(), error.encode())


def test_a_cluster_is_asked_once_for_all_kinds_and_never_for_secrets() -> None:
    found, kubectl = sources.Found(), Kubectl()
    sources.read_cluster(found, ["--context", "dev"], kubectl)
    assert [item["kind"] for item in found.objects] == ["Pod", "ConfigMap"]
    assert len(kubectl.calls) == 2
    assert all(call[:4] == ["kubectl", "--context", "dev", "get"] for call in kubectl.calls)
    assert "secret" not in str(kubectl.calls).lower()


def test_kinds_that_the_cluster_does_not_have_are_left_out() -> None:
    found, kubectl = sources.Found(), Kubectl(missing=["sidecars.networking.istio.io"])
    sources.read_cluster(found, [], kubectl)
    assert [item["kind"] for item in found.objects] == ["Pod", "ConfigMap"]
    assert "sidecars.networking.istio.io" in found.notes[0].text


def test_an_unreachable_cluster_is_one_line() -> None:
    error = "E1123 memcache.go: x\nThe connection to the server localhost:8080 was refused"
    with pytest.raises(BadInputError, match=r"^kubectl: The connection .* with -f$"):
        sources.read_cluster(sources.Found(), [], Kubectl(error=error))


def test_a_missing_kubectl_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInputError, match="kubectl is not on the PATH"):
        sources.read_cluster(sources.Found(), [])


# --- Pulumi ---------------------------------------------------------------------------------------


def resource(item: Json, kind: str = "", **more: object) -> Json:
    api = item.get("apiVersion", "v1")
    token = f"kubernetes:{api if '/' in api else 'core/' + api}:{kind or item['kind']}"
    inputs = {**item, "__fieldManager": "pulumi"}
    return {"urn": f"urn:{item['metadata']['name']}", "type": token, "inputs": inputs} | more


RELEASE: Json = {
    "urn": "urn:istiod",
    "type": "kubernetes:helm.sh/v3:Release",
    "inputs": {
        "name": "istiod",
        "namespace": "istio-system",
        "chart": "istiod",
        "values": {
            "meshConfig": {"enableAutoMtls": False},
            "pilot": {"env": {"PILOT_ENABLE_AMBIENT": "true"}},
            "global": {"istioNamespace": "mesh"},
        },
    },
}


def state(*resources: Json) -> sources.Found:
    found = sources.Found()
    document = {"version": 3, "deployment": {"resources": [*resources]}}
    stack.read_state(found, json.dumps(document).encode())
    return found


def test_a_state_gives_its_kubernetes_objects_as_the_cluster_answered() -> None:
    live = thing("Pod", "a-1f2e", status={"phase": "Running"})
    found = state(
        {"urn": "urn:stack", "type": "pulumi:pulumi:Stack", "outputs": {"kind": "Stack"}},
        {"urn": "urn:p", "type": "pulumi:providers:kubernetes", "inputs": {"kubeconfig": "x"}},
        {"urn": "urn:c", "type": "day21:mesh:Mesh"},
        resource(thing("Pod", "a"), outputs=live | {"__initialApiVersion": "v1"}),
        resource(thing("Pod", "gone"), delete=True),
        resource(thing("Secret", "s", data={"k": "v"})),
    )
    assert found.objects == [live]
    assert found.notes == []


def test_an_object_without_kind_has_it_from_its_type() -> None:
    item = thing("PeerAuthentication", "default")
    bare = {key: item[key] for key in ("metadata",)}
    found = state(
        {"urn": "u", "type": "kubernetes:security.istio.io/v1:PeerAuthentication", "inputs": bare}
    )
    assert found.objects == [item]


def test_a_patch_is_laid_over_its_object() -> None:
    space: Json = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"a": "b"}},
    }
    patch = space | {"metadata": {"name": "shop", "labels": {"istio-injection": "enabled"}}}
    alone = patch | {"metadata": {"name": "other"}}
    found = state(
        resource(patch, "NamespacePatch"), resource(space), resource(alone, "NamespacePatch")
    )
    both = {"name": "shop", "labels": {"a": "b", "istio-injection": "enabled"}}
    assert [item["metadata"] for item in found.objects] == [both, {"name": "other"}]


def test_a_helm_release_is_said_to_be_closed_and_istiods_values_are_read() -> None:
    found = state(RELEASE)
    assert [note.subject for note in found.notes] == ["Release istio-system/istiod"]
    assert "not judged" in found.notes[0].text
    assert sources.mesh_config(found) == {"rootNamespace": "mesh", "enableAutoMtls": False}
    assert sources.ambient_enabled(found)


@pytest.mark.parametrize(
    ("chart", "read_"),
    [
        ("istiod", True),
        ("istiod/", True),
        ("oci://registry/charts/istiod", True),
        ("downloads/istiod-1.31.0.tgz", True),
        ("charts/istio-control/istio-discovery", True),
        ("not-istiod", False),
        ("istiod-monitor", False),
        ("base", False),
    ],
)
def test_istiods_chart_is_known_by_each_of_its_names(chart: str, *, read_: bool) -> None:
    found = state(RELEASE | {"inputs": {**RELEASE["inputs"], "chart": chart}})
    assert bool(sources.mesh_config(found)) is read_


def test_a_release_that_the_provider_named_is_told_by_that_name() -> None:
    unnamed = {k: v for k, v in RELEASE["inputs"].items() if k != "name"}
    named = {"inputs": unnamed, "outputs": {"name": "istiod-1f2e", "values": {"stale": 1}}}
    found = state(RELEASE | named)
    assert found.notes[0].subject == "Release istio-system/istiod-1f2e"
    assert "helm get manifest -n istio-system istiod-1f2e" in found.notes[0].text
    assert sources.mesh_config(found)["rootNamespace"] == "mesh"


def test_secrets_are_never_in_what_is_kept_or_said() -> None:
    envelope = {"4dabf18193072939515e22adb298388d": "1b4706", "plaintext": '"hunter2"'}
    item = thing("Pod", "a", spec={"containers": [{"env": [{"value": envelope}]}], "x": "[secret]"})
    found = state(resource(item))
    assert "hunter2" not in str(found)
    assert "spec.containers[0].env[0].value" in found.notes[0].text
    assert "spec.x" in found.notes[0].text


def preview(*steps: Json, **more: object) -> sources.Found:
    found = sources.Found()
    stack.read_preview(found, json.dumps({"steps": [*steps], **more}).encode())
    return found


def step(op: str, new: Json | None, old: Json | None = None) -> Json:
    urn = (new or old or {}).get("urn")
    return {"op": op, "urn": urn, "newState": new, "oldState": old}


def test_a_preview_gives_what_will_be() -> None:
    old_meta = {"name": "b", "namespace": "shop", "creationTimestamp": "2024-01-01T00:00:00Z"}
    old = resource(thing("Pod", "b"), outputs=thing("Pod", "b") | {"metadata": old_meta})
    found = preview(
        step("same", resource(thing("Pod", "a"), outputs=thing("Pod", "a", status={}))),
        step("update", resource(thing("Pod", "b", spec={"new": True})), old),
        step("create", resource(thing("Pod", "c"))),
        step("create-replacement", resource(thing("Pod", "d"))),
        step("replace", resource(thing("Pod", "d"))),
        step("delete-replaced", None, resource(thing("Pod", "d"))),
        step("delete", None, resource(thing("Pod", "e"))),
    )
    assert [item["metadata"]["name"] for item in found.objects] == ["a", "b", "c", "d"]
    ages = [item["metadata"].get("creationTimestamp") for item in found.objects]
    assert ages == [None, "2024-01-01T00:00:00Z", stack.NOT_YET, stack.NOT_YET]
    assert found.objects[1]["spec"] == {"new": True}
    assert found.notes == []


def test_a_preview_without_same_steps_is_said_to_be_partial() -> None:
    assert [note.code for note in preview(step("create", RELEASE)).notes] == [
        "PREVIEW_PARTIAL",
        "HELM_RELEASE",
    ]


def test_a_preview_of_a_new_stack_lacks_nothing() -> None:
    new = {"urn": "urn:stack", "type": "pulumi:pulumi:Stack"}
    assert [note.code for note in preview(step("create", new), step("create", RELEASE)).notes] == [
        "HELM_RELEASE"
    ]


def judged(found: sources.Found) -> dict[tuple[str, str], str]:
    world = World.parse(found.objects, MeshConfig.parse(sources.mesh_config(found), ambient=False))
    return {
        (row.client_name, row.server_name): f"{row.effective} {row.server} {row.server_rule}"
        for row in rows(world)
        if row.client_name != row.server_name
    }


def test_a_recorded_preview_is_judged_as_the_state_after_its_update() -> None:
    """Recorded on the lab, then cut: an exception for ratings that the preview adds."""
    before, after = sources.Found(), sources.Found()
    stack.read_preview(before, (CASES.parent / "pulumi-preview.json").read_bytes())
    stack.read_state(after, (CASES.parent / "pulumi-state.json").read_bytes())
    page, ratings = "bookinfo/productpage-v1", "bookinfo/ratings-v1"
    exception = "PLAINTEXT DISABLE bookinfo/exception-app-ratings-9d81759f"
    assert judged(before) == judged(after)
    assert judged(after) == {
        (page, ratings): exception,
        (ratings, page): "ISTIO_MUTUAL STRICT istio-system/default",
    }
    releases = {"Release istio-system/istiod", "Release istio-system/istio-ingressgateway"}
    for found in (before, after):
        assert {note.subject for note in found.notes} == releases
        assert sources.mesh_config(found)["outboundTrafficPolicy"] == {"mode": "ALLOW_ANY"}


def test_what_only_the_update_will_know_is_said_and_not_guessed() -> None:
    item = thing("Pod", "a", UNKNOWN)
    known = thing("Pod", "b", spec={"hostNetwork": UNKNOWN})
    found = preview(step("same", resource(item)), step("same", resource(known)))
    assert [i["metadata"]["name"] for i in found.objects] == ["b"]
    assert found.objects[0]["spec"] == {}
    assert [note.code for note in found.notes] == ["VALUE_UNKNOWN", "VALUE_UNKNOWN"]


def test_a_preview_that_failed_is_not_judged() -> None:
    with pytest.raises(BadInputError, match="the preview itself failed: no chart"):
        preview(diagnostics=[{"severity": "error", "message": "no\nchart"}])


@pytest.mark.parametrize("read_", [stack.read_state, stack.read_preview])
@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"deployment": 1, "steps": 2}', b"\xff", b'{"a":' * 90_000]
)
def test_what_is_no_pulumi_document_is_one_line(read_: Any, text: bytes) -> None:
    with pytest.raises(BadInputError) as caught:
        read_(sources.Found(), text)
    assert "\n" not in str(caught.value)


def hostile() -> Iterator[object]:
    for value in (None, 7, "x", [], {}, [None], {"metadata": 3}, True):
        yield {"type": "kubernetes:core/v1:Pod", "inputs": value, "outputs": value}
        yield {"type": value, "inputs": {"metadata": value}}
        yield {
            "type": "kubernetes:helm.sh/v3:Release",
            "inputs": {"chart": "istiod", "values": value},
        }
        yield value


def test_odd_resources_raise_nothing() -> None:
    odd: list[Any] = [*hostile()]
    state(*odd)
    preview(*odd, *({"op": op, "newState": new} for op in ("same", "update", odd) for new in odd))


def test_printable_leaves_no_control_character() -> None:
    assert printable("a\x1b[31m\n b\u202e\ud800") == "a?[31m b??"
