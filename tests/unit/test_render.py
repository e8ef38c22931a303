"""A stack's objects without a cluster, with a helm that is played."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime import mocks

from lab import offline
from lab import stack as lab_stack
from lab.lifecycle import LabError
from lab.paths import LabPaths
from render import __main__ as command
from render import files, program
from render.__main__ import main
from render.checkout import checkout
from render.document import document
from render.program import NO_CLUSTER, Recorded, State
from render.record import Recorder
from review import helm
from review.manifests import split
from review.objects import Declared
from review.preview import BadInputError, parse, releases
from tests.unit import charts
from tlscheck import sources, stack
from tlscheck.stack import HIDDEN

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden") / "dev.yaml"
SECRET, UNKNOWN = HIDDEN
PASSWORD = "hunter2"  # noqa: S105 what must not be seen again

PROJECT = """\
name: shop
runtime: python
config:
  kubeContext: {type: string, default: ""}
  size: {type: integer, default: 1}
  list: {type: array, default: [1]}
"""
CLUSTER = """\
def connect(access):
    raise SystemExit("a cluster is asked")
"""
MAIN = """\
import pulumi
from components import cluster

config = pulumi.Config()
found = cluster.connect(config.require("kubeContext"))
found.check_namespace("shop", adopt=False)
assert list(found.objects()) == []
print("this is no part of the answer")
pulumi.log.warn("mind the gap")


class Shop(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("shop:index:Shop", name)
        self.register_outputs({"open": True})


class Password(pulumi.CustomResource):
    result: pulumi.Output[str]

    def __init__(self, name):
        opts = pulumi.ResourceOptions(additional_secret_outputs=["result"])
        super().__init__("random:index/randomPassword:RandomPassword", name, {"result": None}, opts)


class Map(pulumi.CustomResource):
    uid: pulumi.Output[str]

    def __init__(self, resource, meta, data, parent=None, **opts):
        props = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
        opts = pulumi.ResourceOptions(parent=parent, **opts)
        super().__init__("kubernetes:core/v1:ConfigMap", resource, {**props, "uid": None}, opts)


shop = Shop("shop")
made = Password("made")
first = Map("first", {"name": "first", "namespace": "shop"}, {
    "size": config.require_int("size"),
    "list": config.require_object("list"),
    "given": config.get_secret("password"),
    "made": made.result.apply(lambda text: text.upper()),
}, parent=shop, aliases=[pulumi.Alias(name="zeroth")])
Map("unnamed", {"namespace": "shop"}, {"uid": first.uid})
pulumi.export("context", config.require("kubeContext"))
"""
SETTINGS = f"config:\n  shop:password: {{secure: {PASSWORD}}}\n  size: 2\n"


def written(folder: Path, main_file: str = MAIN, settings: str = SETTINGS) -> Path:
    """A checkout with a small program."""
    (folder / "components").mkdir(parents=True)
    (folder / "components" / "__init__.py").touch()
    (folder / "components" / "cluster.py").write_text(CLUSTER)
    (folder / "Pulumi.yaml").write_text(PROJECT)
    (folder / "Pulumi.dev.yaml").write_text(settings)
    (folder / "__main__.py").write_text(main_file)
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The small program, run once."""
    folder = written(tmp_path_factory.mktemp("shop"))
    return program.run(program.read(folder, "dev", {}))


def named(recorded: Recorded, name: str) -> State:
    (found,) = [one for urn, one in recorded.states.items() if urn.endswith(f"::{name}")]
    return found


# what is recorded


def test_the_program_runs_with_its_settings_and_asks_no_cluster(shop: Recorded) -> None:
    data = named(shop, "first").inputs["data"]

    assert isinstance(data, dict)
    assert (data["size"], data["list"]) == (2, [1])
    assert named(shop, "shop-dev").outputs == {"context": NO_CLUSTER}
    assert named(shop, "shop").outputs == {"open": True}


def test_secrets_given_and_made_up_are_hidden_and_so_is_what_is_made_of_them(
    shop: Recorded,
) -> None:
    data = named(shop, "first").inputs["data"]

    assert isinstance(data, dict)
    assert (data["given"], data["made"]) == (SECRET, SECRET)
    assert PASSWORD not in str(shop)


def test_what_only_an_update_knows_is_what_the_cli_writes_for_it(shop: Recorded) -> None:
    assert named(shop, "unnamed").inputs["data"] == {"uid": UNKNOWN}


def test_an_object_without_a_name_has_one_that_stays_the_same(shop: Recorded) -> None:
    assert named(shop, "unnamed").inputs["metadata"] == {"name": "unnamed", "namespace": "shop"}


def test_a_warning_of_the_program_is_kept(shop: Recorded) -> None:
    said = [dict(one) for one in shop.diagnostics]
    assert [one["message"] for one in said if one["severity"] == "warning"] == ["mind the gap"]


@pytest.mark.parametrize(
    ("main_file", "message"),
    [
        (
            'import pulumi\nraise pulumi.RunError("size is 0\\n  allowed: 1")',
            "size is 0\n  allowed",
        ),
        ('import pulumi\npulumi.log.error("too small")', "too small"),
        ("1 / 0", "Traceback"),
        ("raise SystemExit(0)", "Traceback"),
    ],
)
def test_a_program_that_refuses_or_fails_says_so_and_nothing_is_written(
    main_file: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "program", main_file)

    assert main(["--program", str(folder), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("render: ")
    assert message in said
    assert ("Traceback" in said) == (message == "Traceback")
    assert not (tmp_path / "out").exists()


def test_what_a_plugin_would_make_or_answer_is_refused() -> None:
    asked = mocks.MockCallArgs("k:yaml:decode", {}, "")
    with pytest.raises(pulumi.RunError, match="k:yaml:decode is asked of a plugin"):
        Recorder().mocks.call(asked)
    with pytest.raises(pulumi.RunError, match="k:helm:Chart is made by its plugin"):
        Recorder().RegisterResource(SimpleNamespace(remote=True, type="k:helm:Chart"))


# settings


def test_settings_are_the_defaults_then_the_stacks_then_the_commands(tmp_path: Path) -> None:
    folder = written(tmp_path / "p", settings="config: {size: 2, other:key: {a: [true]}}")
    read = program.read(folder, "dev", {"size": "3", "shop:kubeContext": "mine"})

    assert read.config == {
        "shop:kubeContext": "mine",
        "shop:size": "3",
        "shop:list": "[1]",
        "other:key": '{"a": [true]}',
    }


def test_a_secret_inside_a_list_hides_the_whole_setting(tmp_path: Path) -> None:
    settings = "config: {shop:users: [{name: a, password: {secure: AAB=}}]}"
    read = program.read(written(tmp_path / "p", settings=settings), "dev", {})

    assert read.secret == ("shop:users",)
    assert json.loads(read.config["shop:users"]) == [{"name": "a", "password": SECRET}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stack", "stage"], "has no Pulumi.stage.yaml; allowed: dev; make it with `pulumi"),
        (["--program", "nowhere"], "nowhere is not a folder with a Pulumi program: "),
        (["--config", "size"], "--config size: allowed: KEY=VALUE"),
        (["--config", "=1"], "--config =1: allowed: KEY=VALUE"),
        (["--base", "nowhere"], "the base: nowhere is not a folder with a Pulumi program"),
        (["--out", "components"], "components is not written by this command; allowed: "),
        (["--out", "Pulumi.yaml"], "Pulumi.yaml is not written by this command; allowed: "),
    ],
)
def test_bad_arguments_are_refused_in_one_error(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(written(tmp_path, "pass"))

    assert main(["--out", "out", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
    assert Path("components/cluster.py").exists()


# the document


def state(urn: str, **inputs: object) -> State:
    type_ = "kubernetes:helm.sh/v3:Release" if "chart" in inputs else "kubernetes:core/v1:ConfigMap"
    return State(
        urn=urn, type=type_, custom=True, parent="", protect=False, aliases=(),
        inputs=inputs, outputs={},
    )  # fmt: skip


def recorded(*states: State) -> Recorded:
    return Recorded(states={one.urn: one for one in states})


def steps(after: Recorded, before: Recorded | None) -> dict[str, Any]:
    found: Any = document(after, before)["steps"]
    return {step["urn"]: step for step in found}


def test_alone_every_step_is_a_creation(shop: Recorded) -> None:
    found = steps(shop, None)

    assert len(found) == 5  # the stack, the component, the password and two objects
    assert {step["op"] for step in found.values()} == {"create"}
    assert not any("oldState" in step for step in found.values())


def test_a_base_makes_of_them_what_the_cli_would() -> None:
    before = recorded(state("same", a=1), state("gone", a=1), state("changed", a=1))
    after = recorded(state("same", a=1), state("new", a=1), state("changed", a=2))
    found = steps(after, before)

    assert {urn: step["op"] for urn, step in found.items()} == {
        "same": "same", "new": "create", "changed": "update", "gone": "delete",
    }  # fmt: skip
    assert found["changed"]["oldState"]["inputs"] == {"a": 1}
    assert found["changed"]["newState"]["inputs"] == {"a": 2}
    assert document(after, before)["changeSummary"] == {
        "create": 1, "delete": 1, "same": 1, "update": 1,
    }  # fmt: skip


def test_differences_are_named_by_the_clis_paths() -> None:
    old = state(
        "a", keep=1, labels={"app.kubernetes.io/name": "x", "a": 1}, list=[{"n": 1}, 2], x=0
    )
    new = state("a", keep=1, labels={"app.kubernetes.io/name": "y"}, list=[{"n": 2}, 2, 3], y={})
    found = steps(recorded(new), recorded(old))["a"]

    assert {path: one["kind"] for path, one in found["detailedDiff"].items()} == {
        'labels["app.kubernetes.io/name"]': "update",
        "labels.a": "delete",
        "list[0].n": "update",
        "list[2]": "add",
        "x": "delete",
        "y": "add",
    }
    assert found["diffReasons"] == ["labels", "list", "x", "y"]
    assert found["replaceReasons"] == []


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ({"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}, "metadata.name"),
        ({"metadata": {}}, {"metadata": {"namespace": "b"}}, "metadata.namespace"),
        ({"chart": "c", "name": "a"}, {"chart": "c", "name": "b"}, "name"),
    ],
)
def test_another_name_or_namespace_is_a_replacement(
    old: dict[str, Any], new: dict[str, Any], path: str
) -> None:
    step = steps(recorded(state("a", **new)), recorded(state("a", **old)))["a"]

    assert (step["op"], step["replaceReasons"]) == ("replace", [path])
    assert step["detailedDiff"][path]["kind"].endswith("-replace")


def test_review_and_tlscheck_read_the_document(shop: Recorded) -> None:
    text = json.dumps(document(shop))
    found = sources.Found()
    stack.read_preview(found, text.encode())

    assert {one.name for one in parse(text).resources} >= {"first", "unnamed"}
    assert [one["kind"] for one in found.objects] == ["ConfigMap", "ConfigMap"]
    assert {note.code for note in found.notes} == {"VALUE_UNKNOWN"}  # and not PREVIEW_PARTIAL


# the files


def config_map(name: str, namespace: str = "shop", **data: object) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def of(*items: dict[str, Any]) -> list[Declared]:
    keyed = [next(iter(split(json.dumps(item)).items())) for item in items]
    return [Declared(key=key, item=item, urn="", release="") for key, item in keyed]


def test_a_file_is_named_by_namespace_kind_and_name() -> None:
    role = {"apiVersion": "rbac/v1", "kind": "ClusterRole", "metadata": {"name": "system:x/../y"}}
    crd = {"apiVersion": "a/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "b.c"}}

    assert list(files.files(of(config_map("a"), role, crd))) == [
        "cluster/clusterrole-system%3Ax%2F..%2Fy.yaml",
        "crds/customresourcedefinition-b.c.yaml",
        "shop/configmap-a.yaml",
    ]


def test_two_kinds_of_one_name_are_two_files() -> None:
    meta = {"name": "a", "namespace": "shop"}
    one = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": meta}
    two = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": meta}

    assert list(files.files(of(one, two))) == [
        "shop/gateway.gateway.networking.k8s.io-a.yaml",
        "shop/gateway.networking.istio.io-a.yaml",
    ]


def test_the_order_of_objects_and_keys_changes_no_byte() -> None:
    first, second = config_map("a", x=1, y=2), config_map("b")
    turned = dict(reversed(config_map("a", y=2, x=1).items()))

    assert files.files(of(first, second)) == files.files(of(second, turned))


@pytest.mark.parametrize(
    "text",
    [
        "1e3",
        "0o14",
        "1_000",
        "y",
        "No",
        "12:30",
        ".5",
        "=",
        "~",
        "2026-11-23",
        " x\n\ty \n",
        "a: b",
    ],
)
def test_text_stays_text(text: str) -> None:
    (written_as,) = files.files(of(config_map("a", key=text))).values()

    assert yaml.safe_load(written_as)["data"]["key"] == text
    if text in ("1e3", "0o14", "y"):  # PyYAML takes these for text, and Go's reader does not
        assert f'"{text}"' in written_as


def test_a_script_is_written_line_by_line() -> None:
    (text,) = files.files(of(config_map("a", run="set -e\nexit 0\n"))).values()

    assert "  run: |\n    set -e\n    exit 0\n" in text


@pytest.mark.parametrize("field", ["data", "stringData"])
def test_what_a_secret_holds_is_never_written(field: str) -> None:
    secret = {**config_map("a"), "kind": "Secret", field: {"key": PASSWORD}}
    (text,) = files.files(of(secret)).values()

    assert yaml.safe_load(text)[field] == {"key": SECRET}
    assert PASSWORD not in text


def test_what_an_earlier_run_wrote_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    files.write(tmp_path / "out", {"shop/a.yaml": "a"})
    files.write(tmp_path / "out", {"shop/b.yaml": "b"})
    assert [one.name for one in (tmp_path / "out" / "shop").iterdir()] == ["b.yaml"]

    (tmp_path / "out" / files.MARKER).unlink()
    with pytest.raises(BadInputError, match="is not written by this command"):
        files.write(tmp_path / "out", {})
    assert (tmp_path / "out" / "shop" / "b.yaml").read_text() == "b"


# a git ref


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit with a file, which has changed since."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "inside").mkdir()
    for file in (folder / "file", folder / "inside" / "other"):
        file.write_text("committed")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "-m", "first")
    (folder / "file").write_text("changed")
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.check_output(["git", "-C", str(folder), *words], text=True)


def test_a_ref_is_a_folder_for_a_while(repository: Path) -> None:
    with checkout("HEAD", repository) as folder:
        assert (folder / "file").read_text() == "committed"
    assert not folder.exists()
    with checkout("HEAD", repository / "inside") as folder:
        assert (folder / "other").read_text() == "committed"
    with pytest.raises(ZeroDivisionError), checkout("HEAD", repository):
        raise ZeroDivisionError
    assert git(repository, "worktree", "list").count("\n") == 1
    assert (repository / "file").read_text() == "changed"


@pytest.mark.parametrize("ref", ["nowhere", "--help", "-f"])
def test_an_unknown_ref_is_refused(ref: str, repository: Path) -> None:
    with pytest.raises(BadInputError, match=f"^{ref} is no commit that is here; allowed: "):
        checkout(ref, repository).__enter__()


# this project's own stack


class Helm:
    """Plays helm: every chart is one object; it remembers its calls and where they were made."""

    def __init__(self) -> None:
        self.calls: list[tuple[Path, list[str]]] = []

    def __call__(self, argv: Sequence[str], stdin: str) -> helm.Done:
        self.calls.append((Path.cwd(), list(argv)))
        if argv[0] != "helm":
            return helm.Done(argv, 0, stdin.replace("chart: ", "refined: "), "")
        item = config_map(argv[2], argv[5], chart=argv[3])
        return helm.Done(argv, 0, yaml.safe_dump(item), "")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Helm]:
    """The stack dev, rendered once, and the helm that was asked."""
    folder, played = tmp_path_factory.mktemp("dev"), Helm()
    settings = ["--config", f"chartSource={charts.FOLDER}"]
    words = ["--program", str(ROOT), *settings, "--json", str(folder / "preview.json")]
    # from another folder, as the charts and post-renderers of a base are not the ones here
    with contextlib.chdir(folder):
        assert main([*words, "--out", "out"], played) == 0
    return folder, played


def test_every_resource_of_the_reviewed_stack_is_in_the_document(dev: tuple[Path, Helm]) -> None:
    text = (dev[0] / "preview.json").read_text()
    reviewed = {one["name"]: one for one in yaml.safe_load(GOLDEN.read_text())}
    found = {one.name: one for one in parse(text).resources}

    assert found.keys() == reviewed.keys() | {"service-mesh-dev"}
    assert {name: found[name].type for name in reviewed} == {
        name: one["type"] for name, one in reviewed.items()
    }
    deployments = [name for name, one in reviewed.items() if one["type"].endswith(":Deployment")]
    assert len(deployments) == 10
    for name in deployments:
        state_of = found[name].new
        assert state_of is not None
        assert same_where_known(state_of.inputs, reviewed[name]["inputs"]), name


def same_where_known(found: Any, wanted: Any) -> bool:
    """Whether two values are the same but for what is secret or unknown in the first."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(
            same_where_known(found[key], wanted[key]) for key in found
        )
    return found in HIDDEN or found == wanted


def test_every_object_is_a_file_helms_included(dev: tuple[Path, Helm]) -> None:
    folder = dev[0] / "out"
    document_of = parse((dev[0] / "preview.json").read_text())
    written_files = list(folder.rglob("*.yaml"))
    own = [
        one for one in document_of.resources
        if one.type.startswith("kubernetes:") and not one.type.endswith(":Release")
    ]  # fmt: skip

    assert len(written_files) == len(own) + len(releases(document_of))
    assert (folder / "bookinfo" / "deployment-reviews-v1.yaml").is_file()
    assert (folder / "cluster" / "namespace-bookinfo.yaml").is_file()
    text = (folder / "istio-system" / "configmap-istio-base.yaml").read_text()
    # the stack's post-renderer has seen it
    assert "refined" in text


def test_helm_runs_where_the_program_is(dev: tuple[Path, Helm]) -> None:
    assert {folder for folder, _ in dev[1].calls} == {ROOT}
    assert len([argv for _, argv in dev[1].calls if argv[:2] == ["helm", "template"]]) == 4


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a comparison of two checkouts has written; its output is in the file `said`."""
    folder = tmp_path_factory.mktemp("compared")
    renamed = MAIN.replace('Map("first"', 'Map("zeroth"').replace(
        'aliases=[pulumi.Alias(name="zeroth")]', ""
    )
    base = written(folder / "base", renamed, SETTINGS.replace("size: 2", "size: 1"))
    now = written(folder / "now", MAIN.replace('Map("unnamed"', 'Map("other"'))
    words = ["--program", str(now), "--out", str(folder / "out"), "--base", str(base)]
    with (folder / "said").open("w") as said, contextlib.redirect_stdout(said):
        assert main([*words, "--json", str(folder / "steps")], Helm()) == 0
    return folder


def test_a_base_shows_what_changed_by_its_own_code_and_settings(compared: Path) -> None:
    out = (compared / "said").read_text()

    assert f"dev, compared with {compared}/base: 1 to change, 1 to add, 1 to delete\n" in out
    assert "  ~ v1 ConfigMap shop/first\n" in out
    assert "-  size: 1\n" in out
    assert "+  size: 2\n" in out
    assert "  + v1 ConfigMap shop/other\n" in out
    assert "  - v1 ConfigMap shop/unnamed\n" in out


def test_a_resource_renamed_with_an_alias_is_the_same_one(compared: Path) -> None:
    found = json.loads((compared / "steps").read_text())

    assert found["changeSummary"] == {"create": 1, "delete": 1, "same": 3, "update": 1}
    (update,) = [step for step in found["steps"] if step["op"] == "update"]
    assert update["oldState"]["urn"].endswith("::zeroth")
    assert update["urn"].endswith("::first")


def test_a_stack_that_the_base_does_not_have_is_all_new(
    shop: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = written(tmp_path / "base")
    (base / "Pulumi.dev.yaml").unlink()
    before = command.before(base, "dev", {})

    assert document(shop, before)["changeSummary"] == {"create": len(shop.states)}
    assert "the base has no Pulumi.dev.yaml: every object is new\n" in capsys.readouterr().err


# the command of the lab


def test_a_stack_of_the_lab_gets_its_settings_but_no_cluster() -> None:
    needed = lab_stack.offline(LabPaths(), Path("/charts"))

    assert needed["service-mesh:chartSource"] == "/charts"
    assert lab_stack.overlay(LabPaths()).keys() - needed.keys() == {
        "service-mesh:kubeContext", "service-mesh:kubeconfig",
    }  # fmt: skip


SAID = "Skipped analyzers:\n\t a.A\n\t b.B\nExecuted analyzers:\n\t a.A\n\t b.B\n\t c.C\n\n"
FINDING = {"code": "IST0101", "level": "Error", "message": "no gateway", "origin": "VS shop/a"}
Played = Callable[..., dict[str, str]]


@pytest.fixture
def istioctl(tmp_path: Path) -> Played:
    """Makes an istioctl that says this, and the environment in which it is found."""

    def make(found: str, said: str = SAID) -> dict[str, str]:
        script = tmp_path / "istioctl"
        (tmp_path / "found").write_text(found)
        (tmp_path / "said").write_text(said)
        script.write_text(
            f'#!/bin/sh\ncd {tmp_path} && echo "$@" >asked && cat found && cat said >&2\n'
        )
        script.chmod(0o755)
        return {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    return make


def test_what_istioctl_cannot_judge_without_a_cluster_is_said(
    istioctl: Played, tmp_path: Path
) -> None:
    lines, failed = offline.analyse("rendered/dev", istioctl("[]"))

    assert not failed
    assert lines == [
        "istioctl analyze: 0 findings by 1 analyzers; 2 more look at Services, Namespaces or pods "
        "of a cluster only"
    ]
    asked = (tmp_path / "asked").read_text().split()
    assert {"--use-kube=false", "--all-namespaces"} <= set(asked)


@pytest.mark.parametrize(("level", "fails"), [("Error", True), ("Warning", False)])
def test_a_finding_is_shown_and_an_error_fails(
    level: str, *, fails: bool, istioctl: Played
) -> None:
    lines, failed = offline.analyse("x", istioctl(json.dumps([FINDING | {"level": level}])))

    assert failed == fails
    assert lines[1] == f"  {level} [IST0101] VS shop/a: no gateway"


@pytest.mark.parametrize(("found", "said"), [("", "Error: no such flag"), ("oops", SAID)])
def test_an_istioctl_that_does_not_answer_is_quoted(
    found: str, said: str, istioctl: Played
) -> None:
    with pytest.raises(LabError, match=r"istioctl analyze .*\n(Error: no such flag|Skipped)"):
        offline.analyse("x", istioctl(found, said))
