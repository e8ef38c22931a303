"""The comment on a pull request: what it says first, what it never says, and what cannot end it."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from policy.guards import RULES
from review import helm
from review.__main__ import main
from review.markdown import LIMIT, MAX_SINGLE
from review.objects import Declared, Side, declared
from review.preview import parse
from review.rules import verdicts
from tests.unit.previews import (
    APPS,
    CORE,
    POLICY,
    RULE,
    STACK,
    UNKNOWN,
    Json,
    Tools,
    config_map,
    crd,
    deployment,
    meta,
    peer_authentication,
    rendered,
    resource,
    same,
    service,
    shop,
    state,
    step,
    update,
)

MARKER = "<!-- service-mesh preview: service-mesh/dev -->"
PASSWORD = "hunter2-hunter2"  # noqa: S105 # made up here


Comment = Callable[..., tuple[int, str]]


def document(*steps: Json, **fields: object) -> str:
    return json.dumps({"steps": [STACK, *steps], **fields})


@pytest.fixture
def comment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Comment:
    """Gives the exit code and the comment of these steps."""

    def run(*steps: Json, tools: Tools | None = None, flags: Sequence[str] = ()) -> tuple[int, str]:
        file = tmp_path / "preview.json"
        file.write_text(document(*steps))
        code = main(["--markdown", str(file), *flags], tools or Tools(live=""))
        wrote = capsys.readouterr()
        assert not wrote.err
        return code, wrote.out

    return run


def headline(text: str) -> str:
    first, blank, second = text.split("\n")[:3]
    assert (first, blank) == (MARKER, "")
    return second


def mode(before: object, after: object) -> Json:
    return resource("update", POLICY, peer_authentication(before), peer_authentication(after))


def job() -> list[Json]:
    """A client without a sidecar."""
    labels = {"istio-injection": "disabled"}
    inputs = deployment("job", "jobs", labels={"sidecar.istio.io/inject": "false"})
    space = same(f"{CORE}Namespace", {"metadata": meta("jobs", labels=labels)})
    return [space, same(f"{APPS}Deployment", inputs)]


# --- what it says first --------------------------------------------------------------------------


def test_a_preview_without_a_change_says_so_in_one_line(comment: Comment) -> None:
    code, text = comment(*shop(), same(POLICY, peer_authentication("STRICT")))
    assert code == 0
    assert headline(text) == "### dev: no changes"
    # a and b, each to the other and to its own kind
    assert "unchanged: 4 edges, all ISTIO_MUTUAL\n" in text
    assert f"✅ {len(RULES)} rules pass\n" in text


def test_an_edge_that_loses_encryption_is_named_and_fails_the_check(comment: Comment) -> None:
    code, text = comment(*shop(), mode("STRICT", "DISABLE"))
    assert code == 1
    assert headline(text) == "### dev: 1 to update · ❌ 4 edges lose encryption"
    assert "- ❌ `shop/a`, `shop/b` to `shop/b` port 80: ISTIO_MUTUAL to PLAINTEXT (" in text
    assert text.index("#### Security") < text.index("#### Policy") < text.index("#### Updated (1)")


def test_the_calls_that_the_stack_declares_are_named_first(comment: Comment) -> None:
    outputs = {"calls": [{"client": "shop/a-*", "server": "b.shop"}]}
    token = "pulumi:pulumi:Stack"  # noqa: S105 # not a secret
    stack = same(token, {}, name="s", state={"custom": False, "outputs": outputs})
    _, text = comment(stack, *shop(), mode("STRICT", "DISABLE"))
    lost = [line for line in text.splitlines() if line.startswith("- ❌")]
    assert lost[0].startswith("- ❌ `shop/a` to `shop/b` port 80: ")
    assert ["the stack's own" in line for line in lost] == [True, False, False]


def test_edges_that_gain_encryption_are_counted_and_fold(comment: Comment) -> None:
    code, text = comment(*shop(), mode("DISABLE", "STRICT"))
    assert code == 0
    assert headline(text) == "### dev: 1 to update · ✅ 4 edges gain encryption"
    assert "<details><summary>✅ 4 edges gain encryption</summary>\n\n- ✅ `shop/a`" in text


def test_an_edge_that_is_cut_off_is_no_loss_of_encryption(comment: Comment) -> None:
    code, text = comment(*shop(), *job(), mode("PERMISSIVE", "STRICT"))
    assert code == 1
    assert headline(text) == "### dev: 1 to update · ❌ 2 edges are cut off"
    assert "`jobs/job` to `shop/a` port 80: PLAINTEXT to refused" in text


def test_a_refusal_that_ends_in_plaintext_is_a_warning(comment: Comment) -> None:
    code, text = comment(*shop(), *job(), mode("STRICT", "PERMISSIVE"))
    assert code == 0
    assert "⚠️ 2 edges that were refused pass in plaintext" in headline(text)
    assert "⚠️ `jobs/job` to `shop/a` port 80: refused to PLAINTEXT" in text


def test_edges_that_come_and_go_are_neither_worse_nor_better(comment: Comment) -> None:
    inputs, front = deployment("c"), service("c")
    made = [
        resource("create", f"{APPS}Deployment", None, inputs),
        resource("create", f"{CORE}Service", None, front),
    ]
    gone = [
        resource("delete", f"{APPS}Deployment", inputs),
        resource("delete", f"{CORE}Service", front),
    ]
    strict = same(POLICY, peer_authentication("STRICT"))
    code, text = comment(*shop(), strict, *made)
    assert code == 0
    assert "new: 5 edges: 5 ISTIO_MUTUAL\n" in text
    code, text = comment(*shop(), strict, *gone)
    assert code == 0
    assert "gone: 5 edges, with their workloads or services\n" in text


def test_a_new_edge_in_plaintext_to_a_workload_of_the_mesh_is_named(comment: Comment) -> None:
    front = resource("create", f"{CORE}Service", None, service("c"))
    made = resource("create", f"{APPS}Deployment", None, deployment("c"))
    code, text = comment(
        *shop(), *job(), same(POLICY, peer_authentication("PERMISSIVE")), front, made
    )
    assert code == 0
    assert "- ⚠️ `jobs/job` to `shop/c` port 80: PLAINTEXT (" in text


def rule(**subsets: str) -> Json:
    """Service a's subsets, each with the TLS that its clients use."""
    made = [
        {"name": name, "labels": {"app": "a"}, "trafficPolicy": {"tls": {"mode": mode}}}
        for name, mode in subsets.items()
    ]
    return {"metadata": meta("a", "shop"), "spec": {"host": "a", "subsets": made}}


def test_a_new_subset_of_a_service_is_no_new_edge(comment: Comment) -> None:
    strict = same(POLICY, peer_authentication("STRICT"))
    old, new = rule(v1="ISTIO_MUTUAL"), rule(v1="ISTIO_MUTUAL", v2="ISTIO_MUTUAL")
    for before, after in ((old, new), (new, old)):
        _, text = comment(*shop(), strict, resource("update", RULE, before, after))
        assert "new:" not in text
        assert "gone:" not in text
        assert headline(text) == "### dev: 1 to update"


def test_a_new_subset_in_plaintext_is_a_loss_of_encryption(comment: Comment) -> None:
    weak = same(POLICY, peer_authentication("PERMISSIVE"))
    old, new = rule(v1="ISTIO_MUTUAL"), rule(v1="ISTIO_MUTUAL", v2="DISABLE")
    code, text = comment(*shop(), weak, resource("update", RULE, old, new))
    assert code == 1
    assert "❌ 2 edges lose encryption" in headline(text)
    assert "- ❌ `shop/a`, `shop/b` to `shop/a` port 80: ISTIO_MUTUAL to PLAINTEXT" in text


def test_a_mode_that_is_not_known_yet_is_said_and_not_guessed(comment: Comment) -> None:
    _, text = comment(*shop(), mode("STRICT", UNKNOWN))
    assert "⚠️ not known: `PeerAuthentication shop/default: secret or not known yet: spec" in text
    assert UNKNOWN not in text


def test_mesh_settings_that_cannot_be_read_are_said_and_left_out(comment: Comment) -> None:
    broken = {"metadata": meta("istio", "istio-system"), "data": {"mesh": "a: [1"}}
    strict = same(POLICY, peer_authentication("STRICT"))
    code, text = comment(*shop(), strict, resource("create", f"{CORE}ConfigMap", None, broken))
    assert code == 0
    assert "⚠️ not known: `ConfigMap istio-system/istio: not YAML" in text
    assert "unchanged: 4 edges" in text


# --- policy --------------------------------------------------------------------------------------


def test_a_broken_rule_is_named_with_what_breaks_it(comment: Comment) -> None:
    inputs = deployment("a", image="a:latest")
    code, text = comment(*shop()[:1], resource("create", f"{APPS}Deployment", None, inputs))
    assert code == 1
    assert headline(text).endswith("❌ 2 rules are broken")
    assert "❌ **images-are-named**: Images have a tag that is not latest, or a digest.\n" in text
    assert "- `Deployment shop/a: container app: image a:latest`\n" in text
    assert f"\n{len(RULES) - 2} rules pass\n" in text


def test_what_goes_breaks_no_rule(comment: Comment) -> None:
    inputs = deployment("a", image="a:latest")
    code, text = comment(resource("delete", f"{APPS}Deployment", inputs))
    assert code == 0
    assert f"✅ {len(RULES)} rules pass" in text


@pytest.mark.parametrize("value", ["[secret]", UNKNOWN])
def test_a_rule_does_not_judge_what_is_hidden(value: str, comment: Comment) -> None:
    inputs = deployment("a", image=value)
    code, text = comment(
        *shop(),
        same(POLICY, peer_authentication("STRICT")),
        same(f"{APPS}Deployment", inputs, name="x"),
    )
    assert code == 0
    assert "⚠️ **images-are-named** cannot be judged before the update:\n" in text
    assert "- `image is secret or not known yet`\n" in text
    assert f"\n{len(RULES) - 1} rules pass\n" in text


def test_a_shape_that_a_rule_does_not_expect_is_said_and_ends_nothing(comment: Comment) -> None:
    inputs = {"metadata": meta("a", "shop"), "spec": {"template": {"spec": {"containers": 5}}}}
    strict = same(POLICY, peer_authentication("STRICT"))
    code, text = comment(*shop(), strict, same(f"{APPS}Deployment", inputs, name="x"))
    assert code == 0
    assert "⚠️ **images-are-named** cannot be judged before the update:\n" in text
    assert "- `of a shape that it does not expect (TypeError)`\n" in text


@pytest.mark.parametrize("production", ["true", "false"])
def test_rules_for_production_go_by_the_stacks_setting(production: str) -> None:
    config = {"service-mesh:production": production}
    stack = same("pulumi:pulumi:Stack", {}, name="s", state={"custom": False})
    text = document(*shop(), stack, config=config)
    broken = {one.rule for one in verdicts(parse(text)) if one.messages}
    assert ("production-is-protected" in broken) is (production == "true")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([UNKNOWN]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "spec",
                    "template",
                    "containers",
                    "labels",
                    "mtls",
                    "replicas",
                    "tls",
                    "trafficPolicy",
                    "subsets",
                    "http",
                    "values",
                    "selector",
                    "hosts",
                    "image",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
tokens = st.sampled_from(
    [
        POLICY,
        RULE,
        f"{APPS}Deployment",
        f"{CORE}Namespace",
        f"{CORE}Secret",
        f"{CORE}Pod",
        "kubernetes:networking.istio.io/v1:Gateway",
        "kubernetes:core/v1:NamespacePatch",
        "kubernetes:networking.istio.io/v1:VirtualService",
        "kubernetes:batch/v1:CronJob",
        "kubernetes:networking.istio.io/v1:ServiceEntry",
        "pulumi:pulumi:Stack",
        "a:b:C",
        "",
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.lists(st.tuples(tokens, json_values, json_values), max_size=4))
def test_no_shape_of_a_preview_ends_without_a_comment(
    data: list[tuple[str, object, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [
        {
            "op": "update",
            "urn": f"urn:pulumi:dev::service-mesh::{token}::{at}",
            "oldState": {"type": token, "inputs": old},
            "newState": {"type": token, "inputs": new},
        }
        for at, (token, old, new) in enumerate(data)
    ]
    code, text = piped(document(*steps), capsys)
    assert code in {0, 1}
    assert f"### dev: {len(data)} to update" in text or not data


def piped(text: str, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    """The exit code and the comment of a document on standard input."""
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        code = main(["--markdown", "-", *flags], Tools(live=""))
    finally:
        sys.stdin = before
    return code, capsys.readouterr().out


# --- objects -------------------------------------------------------------------------------------


def test_replacements_and_deletions_come_first_and_losses_before_them(comment: Comment) -> None:
    claim = {"metadata": meta("data", "shop")}
    old, new = {"metadata": meta("x", "shop")}, {"metadata": meta("x", "other")}
    definition = "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition"
    _, text = comment(
        resource("create", f"{CORE}ConfigMap", None, {"metadata": meta("new", "shop")}),
        resource("update", f"{CORE}Service", service("a"), service("b"), name="s"),
        resource("delete", f"{CORE}ServiceAccount", {"metadata": meta("gone", "shop")}),
        resource(
            "replace", f"{CORE}ConfigMap", old, new, name="x", replaceReasons=["metadata.namespace"]
        ),
        resource("delete", f"{CORE}PersistentVolumeClaim", claim),
        resource("delete", definition, {"metadata": meta("things.example")}),
        resource("delete", f"{CORE}Namespace", {"metadata": meta("shop")}),
    )
    assert headline(text) == (
        "### dev: 1 to replace, 4 to delete, 1 to update, 1 to create · ⚠️ 3 of them lose data"
    )
    found = [
        line for line in text.splitlines() if line.startswith(("####", "- delete", "<details"))
    ]
    assert found[found.index("#### Replaced and deleted (5)") :] == [
        "#### Replaced and deleted (5)",
        "- delete `Namespace shop`, ⚠️ with everything in it",
        "- delete `PersistentVolumeClaim shop/data`, ⚠️ with its data",
        "- delete `CustomResourceDefinition things.example`, ⚠️ with every object of that kind",
        "<details><summary>replace <code>ConfigMap other/x</code>, because of "
        "<code>metadata.namespace</code></summary>",
        "- delete `ServiceAccount shop/gone`",
        "#### Updated (1)",
        "<details><summary>update <code>Service shop/b</code></summary>",
        "#### Created (1)",
        "<details><summary>create <code>ConfigMap shop/new</code></summary>",
        "#### Notes",
    ]


def test_a_protected_object_that_would_go_is_said_to_stop_the_update(comment: Comment) -> None:
    inputs = {"metadata": meta("shop")}
    _, text = comment(
        resource("delete", f"{CORE}Namespace", inputs, state={"protect": True}),
        resource("update", f"{CORE}Service", service("a"), service("b"), state={"protect": True}),
    )
    assert text.count("🔒") == 1
    assert "- delete `Namespace shop`, ⚠️ with everything in it, 🔒 protected: `pulumi up`" in text


def test_components_are_not_listed_and_other_providers_resources_are(comment: Comment) -> None:
    _, text = comment(
        resource("create", "service-mesh:mtls:MutualTls", None, {}, state={"custom": False}),
        resource("delete", "random:index/randomPassword:RandomPassword", {"length": 32}, name="p"),
    )
    assert headline(text) == "### dev: 1 to delete"
    assert "- delete `RandomPassword p`\n" in text


def test_many_new_objects_are_counted_by_kind_with_their_names(comment: Comment) -> None:
    made = [
        resource("create", f"{CORE}ConfigMap", None, {"metadata": meta(f"c{at:02}", "shop")})
        for at in range(MAX_SINGLE + 1)
    ]
    _, text = comment(*made)
    assert "#### Created (11)\n\n- create 11 `ConfigMap`: `shop/c00`, `shop/c01`, " in text
    _, text = comment(*made[:-1])
    assert text.count("<summary>create <code>ConfigMap shop/c") == MAX_SINGLE


def test_objects_inside_releases_are_in_the_same_lists(comment: Comment) -> None:
    tools = Tools(
        live=rendered({"a": "old"}) + config_map("gone", 1) + crd("kept", keep=True),
        chart=lambda values: rendered(values) + config_map("made", 1),
    )
    code, text = comment(
        update({"a": "old"}, {"a": "new"}), tools=tools, flags=("--context", "lab")
    )
    assert code == 0
    assert headline(text) == "### dev: 1 to delete, 2 to update, 1 to create"
    assert "<summary>update <code>Release istio-system/istiod</code></summary>" in text
    inside = "in release <code>istiod</code></summary>"
    assert f"<summary>update <code>ConfigMap istio-system/shown</code> {inside}" in text
    assert f"<summary>create <code>ConfigMap istio-system/made</code> {inside}" in text
    assert "-  key: old\n+  key: new\n" in text
    assert "- delete `ConfigMap istio-system/gone` in release `istiod`\n" in text
    assert "#### Left behind by Helm's resource policy (1)\n" in text
    assert "`cluster lab`" in text


def test_a_replaced_release_says_which_of_its_unchanged_objects_lose_data(comment: Comment) -> None:
    old, new = state("base", values={}), state("base", values={"a": 1})
    _, text = comment(step("replace", old, new), tools=Tools(chart=lambda _: crd("things")))
    assert (
        "replace <code>CustomResourceDefinition things</code> in release <code>base</code>" in text
    )
    assert "⚠️ with every object of that kind" in text
    assert "every object is deleted and made again" in text


def test_a_release_that_cannot_be_rendered_is_on_neither_side(comment: Comment) -> None:
    tools = Tools(
        live=config_map("there", 1), failing="helm template", error="Error: no chart found\n"
    )
    change = update({"a": 1}, {"a": 2})
    code, text = comment(change, tools=tools, flags=("--context", "lab"))
    assert code == 2
    assert headline(text) == "### dev: 1 to update · ⚠️ not complete"
    assert "⚠️ Not compared: `release istiod cannot be rendered: no chart found`\n" in text
    assert "there" not in text


def test_version_labels_are_one_note(comment: Comment) -> None:
    def chart(version: str) -> str:
        return config_map("a", 1).replace(
            '"name"', f'"labels": {{"helm.sh/chart": "{version}"}}, "name"'
        )

    tools = Tools(live=chart("i-1"), chart=lambda _: chart("i-2"))
    _, text = comment(update({}, {"b": 1}), tools=tools, flags=("--context", "lab"))
    assert headline(text) == "### dev: 1 to update"
    assert (
        "- `release istiod: 1 objects with new version labels only: helm.sh/chart i-1 -> i-2"
        in text
    )


def test_an_unchanged_release_is_asked_for_its_objects_and_not_listed(comment: Comment) -> None:
    front = json.dumps({"apiVersion": "v1", "kind": "Service", **service("a")})
    tools = Tools(chart=lambda _: "---\n" + front)
    strict = same(POLICY, peer_authentication("STRICT"))
    code, text = comment(*shop()[:-2], strict, step("same", state(), state()), tools=tools)
    assert code == 0
    assert headline(text) == "### dev: no changes"
    assert "unchanged: 2 edges, all ISTIO_MUTUAL" in text


# --- what it never says --------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["data", "stringData"])
def test_values_of_a_secret_are_nowhere(field: str, comment: Comment) -> None:
    coded = base64.b64encode(PASSWORD.encode()).decode()
    held = coded if field == "data" else PASSWORD
    env = {"env": PASSWORD, "again": f"user:{PASSWORD}@host", "coded": f"x {coded}"}
    code, text = comment(
        resource(
            "create", f"{CORE}Secret", None, {"metadata": meta("s", "shop"), field: {"k": held}}
        ),
        resource("create", f"{CORE}ConfigMap", None, {"metadata": meta("c", "shop"), "data": env}),
    )
    assert code == 0
    assert PASSWORD not in text
    assert coded not in text
    assert "+  again: user:[hidden]@host\n" in text
    assert "+  k: '[hidden]'\n" in text


def test_a_secret_that_the_cli_hides_on_one_side_is_hidden_on_both(comment: Comment) -> None:
    old = {"metadata": meta("c", "shop"), "data": {"p": PASSWORD, "q": f"see {PASSWORD}"}}
    new = {"metadata": meta("c", "shop"), "data": {"p": "[secret]", "q": "none"}}
    _, text = comment(resource("update", f"{CORE}ConfigMap", old, new))
    assert PASSWORD not in text
    assert "-  q: see [hidden]\n+  q: none\n" in text


@pytest.mark.parametrize("before", [PASSWORD, "[secret]"])
def test_a_secret_value_of_a_release_is_in_no_object_of_it(before: str, comment: Comment) -> None:
    tools = Tools(live=config_map("shown", PASSWORD), chart=lambda v: config_map("shown", str(v)))
    change = update({"a": before, "b": 1}, {"a": "[secret]", "b": 2})
    _, text = comment(change, tools=tools, flags=("--context", "lab"))
    assert PASSWORD not in text
    assert "<code>ConfigMap istio-system/shown</code> in release" in text
    assert "values not rendered, secret or not known: a" in text


def test_a_secret_with_half_a_character_is_hidden_as_well(comment: Comment) -> None:
    secret = {"metadata": meta("s", "shop"), "stringData": {"k": f"{PASSWORD}\ud800"}}
    code, text = comment(resource("create", f"{CORE}Secret", None, secret))
    assert code == 0
    assert PASSWORD not in text


def test_what_a_secret_changes_is_named_and_not_shown(comment: Comment) -> None:
    inputs = {"metadata": meta("s", "shop"), "data": "[secret]"}
    _, text = comment(
        resource("update", f"{CORE}Secret", inputs, inputs, detailedDiff={"data.key": {}})
    )
    assert "Only what is hidden, or not among the inputs, differs: `data.key`\n" in text


def test_a_kubeconfig_of_a_provider_is_hidden(comment: Comment) -> None:
    old, new = (
        {"context": "a", "kubeconfig": PASSWORD},
        {"context": "b", "kubeconfig": PASSWORD + "2"},
    )
    _, text = comment(resource("update", "pulumi:providers:kubernetes", old, new, name="cluster"))
    assert PASSWORD not in text
    assert "-context: a\n+context: b\n" in text


# --- a preview that failed -----------------------------------------------------------------------


def test_a_failed_preview_is_a_comment_with_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    error = "error: 1 setting cannot be used:\n\nmtlsMode is ```FOO```\n  allowed: STRICT\n"
    said = {"severity": "error", "message": error}
    step = resource("create", "a:b:C", None, {}, name="x")
    code, text = piped(document(step, diagnostics=[said]), capsys)
    assert code == 2
    assert text == (
        f"{MARKER}\n\n### dev: the preview failed ❌\n\n"
        "````text\n1 setting cannot be used:\n\nmtlsMode is ```FOO```\n  allowed: STRICT\n````\n"
    )


def test_a_failed_preview_shows_no_stack_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    error = 'error: it failed:\nTraceback (most recent call last):\n  File "/a/b.py"\nKeyError: x\n'
    code, text = piped(
        document(diagnostics=[{"severity": "error", "message": error}]),
        capsys,
        *("--project", "service-mesh", "--stack", "dev"),
    )
    assert code == 2
    assert text.startswith(f"{MARKER}\n")
    assert "it failed:\nKeyError: x\n```" in text
    assert "b.py" not in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Previewing update (dev)", "the preview is not JSON"),
        ("{}", "the preview has no steps"),
        ('{"steps": ' + "[" * 100_000, "the preview is not JSON"),
        (
            document({"op": "same", "urn": "u", "newState": {"type": "x", "inputs": {}}})[:-1],
            "JSON",
        ),
        (document(step("create", None, state(chart=""))), "has no name or no chart"),
    ],
)
def test_bad_input_is_a_comment_too(
    text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--project", "service-mesh", "--stack", "dev")
    code, wrote = piped(text, capsys, *flags)
    assert code == 2
    assert headline(wrote) == "### dev: the preview cannot be reviewed ❌"
    assert reason in wrote


def test_a_preview_that_nests_too_deep_is_a_comment_too(capsys: pytest.CaptureFixture[str]) -> None:
    deep: object = "x"
    for _ in range(700):
        deep = {"a": deep}
    inputs = {"metadata": meta("c", "shop"), "data": deep}
    code, text = piped(document(resource("create", f"{CORE}ConfigMap", None, inputs)), capsys)
    assert code == 2
    assert "nested too deep" in text


def test_a_missing_helm_is_a_comment_too(comment: Comment) -> None:
    code, text = comment(update({"a": 1}, {"a": 2}), tools=Tools(missing="helm"))
    assert code == 2
    assert "helm is not on PATH" in text


# --- what cannot end it --------------------------------------------------------------------------

EVIL = "EVIL"
hostile = st.builds(
    lambda parts: EVIL.join(["", *parts, ""]),
    st.lists(
        st.sampled_from(
            [
                "```",
                "`",
                "``",
                "````",
                "\n",
                "\r",
                "\n\n",
                "</details>",
                "<script>",
                "</code>",
                "-->",
                "<!--",
                "@org/team",
                "[x](http://e)",
                "![x](http://e)",
                "|",
                "\\",
                "**",
                "\u202e",
                "\ud800",
                "\x00",
                "\x1b[31m",
                "\u2028",
                "\x85",
                "# ",
                "- ",
                "~~~",
                "&lt;",
                "http://e",
                "$x$",
                "\t",
                " ",
                "😀",
                "---",
                "diff",
                "'",
                '"',
                ": ",
                "[secret]",
            ]
        ),
        min_size=1,
        max_size=8,
    ),
)


class Tags(HTMLParser):
    """Collects tags, and the text outside of `code`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[str] = []
        self.outside = ""
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag + "".join(f" {name}" for name, _ in attrs))
        self.depth += tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self.seen.append(f"/{tag}")
        self.depth -= tag == "code"

    def handle_data(self, data: str) -> None:
        self.outside += "" if self.depth else data

    def handle_comment(self, data: str) -> None:
        self.seen.append(f"!{data}")


def escapes(text: str) -> Iterator[str]:
    """Where text of a preview stands outside of code, or HTML that is not the comment's own."""
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(text)
    tags = Tags()
    for token in tokens:
        children = token.children or []
        if token.type == "html_block":
            tags.feed(token.content)
        for child in children:
            if child.type == "html_inline":
                tags.feed(child.content)
            elif child.type != "code_inline" and EVIL in child.content:
                yield f"{child.type}: {child.content!r}"
            elif child.type in {"link_open", "image"}:
                yield child.type
    tags.close()
    if EVIL in tags.outside:
        yield tags.outside
    allowed = {"details", "summary", "code", "sub"}
    allowed |= {f"/{tag}" for tag in allowed}
    comments = [tag for tag in tags.seen if tag.startswith("!")]
    yield from (tag for tag in tags.seen if tag not in allowed and tag not in comments[:1])
    yield from comments[1:]
    for tag in ("details", "summary", "code", "sub"):
        if tags.seen.count(tag) != tags.seen.count(f"/{tag}"):
            yield f"{tag} stays open"


def bare(name: str) -> Json:
    """A workload that keeps to no guard rail."""
    spec = {"template": {"spec": {"containers": [{"name": name, "image": name}]}}}
    return {"metadata": meta(name), "spec": spec}


def test_the_parser_of_these_tests_sees_an_escape() -> None:
    for text in (
        EVIL,
        f"<b>{EVIL}</b>",
        f"<code>{EVIL}",
        "<script>",
        "[a](b)",
        f"```\n```\n{EVIL}",
    ):
        assert list(escapes(text)), text
    assert not list(escapes(f"- `{EVIL}`\n\n<details><code>{EVIL}</code></details>"))
    assert not list(escapes(f"```\n{EVIL}\n```"))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(hostile, min_size=8, max_size=8))
def test_no_text_of_a_preview_leaves_its_code(
    texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = iter(texts * 4)
    injected = {"metadata": meta("shop", labels={"istio-injection": "enabled"})}
    steps = [
        same(f"{CORE}Namespace", injected),
        same(f"{APPS}Deployment", deployment(next(names)), name="d1"),
        same(f"{APPS}Deployment", deployment("b"), name="d2"),
        same(f"{CORE}Service", service("b")),
        resource("update", POLICY, peer_authentication("STRICT"), peer_authentication("DISABLE")),
        resource(
            "replace",
            f"{CORE}ConfigMap",
            {"metadata": meta(next(names), "n"), "data": {"k": next(names)}},
            {"metadata": meta(next(names), "n"), "data": {next(names): next(names)}},
            name="c",
            replaceReasons=[next(names)],
            detailedDiff={next(names): {}},
        ),
        resource("delete", f"{CORE}Namespace", {"metadata": meta(next(names))}, name="n"),
        resource("create", f"kubernetes:{next(names)}/v1:Thing", None, {}, name=next(names)),
        resource("update", f"a:b:{next(names)}", {"a": next(names)}, {"a": next(names)}),
        resource("update", f"{APPS}Deployment", bare(next(names)), bare(next(names)), name="w"),
        update({"a": next(names)}, {"a": next(names)}),
    ]
    _, text = piped(document(*steps), capsys)
    assert list(escapes(text)) == []
    text.encode()
    assert all(c.isprintable() or c == "\n" for c in text)
    failed = document(diagnostics=[{"severity": "error", "message": texts[0]}])
    _, text = piped(failed, capsys)
    assert list(escapes(text)) == []


def many(number: int, width: int) -> list[Json]:
    """Deletions, updates and creations, that many of each."""

    def inputs(op: str, at: int, word: str) -> Json:
        lines = "\n".join(f"{word} {line}" for line in range(40))
        return {"metadata": meta(f"{op}-{at:04}" + "x" * width, "shop"), "data": {"k": lines}}

    steps = []
    for at in range(number):
        steps += [
            resource("create", f"{CORE}ConfigMap", None, inputs("create", at, "new")),
            resource(
                "update", f"{CORE}ConfigMap", inputs("update", at, "o"), inputs("update", at, "n")
            ),
            resource("delete", f"{CORE}Namespace", inputs("delete", at, "old")),
        ]
    return steps


@pytest.mark.parametrize(("number", "width"), [(150, 0), (200, 100)])
def test_a_comment_keeps_to_githubs_limit_and_says_what_it_leaves_out(
    number: int, width: int, comment: Comment
) -> None:
    steps = many(number, width)
    _, text = comment(*steps)
    assert LIMIT * 0.9 < len(text) <= LIMIT
    assert text.endswith("`make preview` shows all.\n")
    assert "✂️ Left out, as GitHub takes 65,536 characters: " in text
    assert list(escapes(text)) == []
    # the end is shortened first
    assert "- delete `Namespace shop/delete-0000" in text
    if "entries at the end" in text:
        assert f"create-{number - 1:04}" not in text
    assert comment(*steps)[1] == text


def test_a_comment_that_fits_leaves_nothing_out(comment: Comment) -> None:
    _, text = comment(*many(5, 0))
    assert "✂️" not in text
    assert text.count("```diff") == 10


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.text(min_size=1, max_size=20).map(lambda text: text * 40),
    number=st.integers(1, 12),
)
def test_no_names_make_a_comment_too_long(
    name: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    injected = {"metadata": meta("shop", labels={"istio-injection": "enabled"})}
    steps = [same(f"{CORE}Namespace", injected)]
    steps += [mode("STRICT", "DISABLE")]
    for at in range(number):
        each = f"{at}{name}"
        steps += [
            same(f"{APPS}Deployment", deployment(each), name=f"d{at}"),
            same(f"{CORE}Service", service(each), name=f"s{at}"),
            resource("delete", f"{CORE}Namespace", {"metadata": meta(each)}, name=f"n{at}"),
            resource("create", f"{APPS}Deployment", None, bare(each), name=f"c{at}"),
        ]
    _, text = piped(document(*steps), capsys)
    assert len(text) <= LIMIT


def test_the_marker_is_one_comment_whatever_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--project", "a-->\n<b>", "--stack", "x" * 1000)
    _, text = piped(document(same(POLICY, peer_authentication("STRICT"))), capsys, *flags)
    assert text.splitlines()[0] == f"<!-- service-mesh preview: a--???b?/{'x' * 80} -->"


# --- the objects of a document -------------------------------------------------------------------


def side(which: Side, *steps: Json, tools: Tools | None = None) -> list[Declared]:
    return declared(parse(document(*steps)), which, helm.Source(runner=tools or Tools()), [])


def test_a_kind_that_is_not_in_the_inputs_comes_from_the_type() -> None:
    (found,) = side(Side.AFTER, same(POLICY, peer_authentication("STRICT")))
    assert (found.item["apiVersion"], found.item["kind"]) == (
        "security.istio.io/v1",
        "PeerAuthentication",
    )
    assert found.key.group == "security.istio.io"
    assert side(Side.AFTER, *shop())[0].item["apiVersion"] == "v1"


def test_each_side_has_what_is_there_then() -> None:
    steps = [
        resource("create", f"{CORE}ConfigMap", None, {"metadata": meta("new", "n")}),
        resource("delete", f"{CORE}ConfigMap", {"metadata": meta("old", "n")}),
        resource("update", f"{CORE}Secret", {"metadata": meta("a")}, {"metadata": meta("b")}),
    ]
    assert [one.key.name for one in side(Side.BEFORE, *steps)] == ["old", "a"]
    assert [one.key.name for one in side(Side.AFTER, *steps)] == ["new", "b"]


def test_a_name_that_the_provider_made_up_is_used_and_its_own_fields_are_not() -> None:
    answered = {"outputs": {"metadata": {"name": "app-1a2b", "creationTimestamp": "2026-01-01"}}}
    one = same(
        f"{CORE}ConfigMap", {"metadata": {}, "__fieldManager": "x"}, name="a", state=answered
    )
    (found,) = side(Side.BEFORE, one)
    assert found.item == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app-1a2b"}}
    assert found.created == "2026-01-01"


def test_objects_of_releases_are_marked_with_the_release() -> None:
    tools = Tools(chart=lambda values: rendered(values) + crd("c"))
    found = side(Side.AFTER, update({"a": 1}, {"a": 2}), tools=tools)
    assert [(one.release, one.key.name, one.crd) for one in found] == [
        ("istiod", "shown", False),
        ("istiod", "fixed", False),
        ("istiod", "c", True),
    ]
    assert found[0].item["data"] == {"key": 2}


def test_a_release_that_stays_is_what_the_cluster_has_on_both_sides() -> None:
    preview = parse(document(step("same", state(), state())))
    tools = Tools(live=config_map("drifted", 1), chart=lambda _: config_map("rendered", 1))
    source = helm.Source(runner=tools, cluster=("--kube-context", "lab"))
    for which in Side:
        assert [one.key.name for one in declared(preview, which, source, [])] == ["drifted"]


def test_a_release_that_cannot_be_rendered_is_named() -> None:
    tools = Tools(failing="helm template", error="Error: no chart\n")
    with pytest.raises(helm.RenderError, match="release istiod: no chart"):
        side(Side.AFTER, update({}, {}), tools=tools)
