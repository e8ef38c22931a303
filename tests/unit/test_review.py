"""The review of a preview, with a helm and a kubectl that are played."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from review import helm
from review.__main__ import main
from review.manifests import compare, diff, split
from review.preview import Op, parse, releases
from review.report import MAX_LINES, MAX_OBJECTS
from tests.unit.previews import (
    STACK,
    UNKNOWN,
    Json,
    Tools,
    config_map,
    crd,
    rendered,
    state,
    step,
    update,
)

UNREACHABLE = "Unable to connect to the server: dial tcp 127.0.0.1:1: connection refused"


@pytest.fixture
def review(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on these steps and gives its exit code and what it wrote."""

    def run(
        tools: Tools, *steps: Json, flags: Sequence[str] = ("--context", "lab")
    ) -> tuple[int, str, str]:
        file = tmp_path / "preview.json"
        file.write_text(json.dumps({"steps": [STACK, *steps]}))
        code = main([str(file), *flags], tools)
        wrote = capsys.readouterr()
        return code, wrote.out, wrote.err

    return run


Review = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Previewing update (dev)", "the preview is not JSON"),
        ("{}", "the preview has no steps"),
        ('{"steps": []}', "the preview has no steps"),
        ("[1]", "the preview has no steps"),
        ('{"steps": [7]}', "No Helm release changes"),
        (
            '{"steps": [{}], "diagnostics": [{"severity": "error", "message": "a:\\n bad"}]}',
            "the preview itself failed: a: bad",
        ),
        (
            json.dumps({"steps": [step("create", None, state(chart=""))]}),
            "Release::istiod has no name or no chart",
        ),
        (
            json.dumps({"steps": [step("update", None, state())]}),
            "Release::istiod has no name or no chart",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    code = main(["-"], Tools())
    wrote = capsys.readouterr()
    assert reason in (wrote.err or wrote.out)
    assert code == (2 if wrote.err else 0)
    assert (wrote.err + wrote.out).count("\n") == 1


def test_a_file_that_is_not_there_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["/no/such/preview.json"], Tools()) == 2
    assert capsys.readouterr().err == (
        "review: [Errno 2] No such file or directory: '/no/such/preview.json'\n"
    )


def test_a_missing_helm_is_refused_in_one_line(review: Review) -> None:
    code, _, err = review(Tools(missing="helm"), update({"a": 1}, {"a": 2}))
    assert code == 2
    assert err == "review: helm is not on PATH; see https://helm.sh/docs/intro/install\n"


def test_a_failing_helm_is_quoted_and_the_other_releases_are_still_reviewed(
    review: Review,
) -> None:
    tools = Tools(
        failing="helm template istio-base", error="level=WARN x\nError: no chart\nfound\n"
    )
    broken = step("create", None, state("istio-base", chart="base"))
    code, out, err = review(tools, broken, step("create", None, state()))
    assert (code, err) == (2, "")
    assert (
        "istio-base (first install): not compared\n  note: cannot be rendered: no chart found\n"
        in out
    )
    assert "istiod (first install): 2 to add\n" in out


def test_a_manifest_that_is_not_yaml_is_said_so(review: Review) -> None:
    code, out, _ = review(Tools(chart=lambda _: "a: [1"), step("create", None, state()))
    assert code == 2
    assert "note: cannot be rendered: while parsing" in out


def test_an_update_is_compared_with_the_manifest_in_the_cluster(review: Review) -> None:
    tools = Tools(live=rendered({"a": "drifted"}))
    code, out, err = review(tools, update({"a": "old"}, {"a": "new"}))
    assert (code, err) == (0, "")
    assert out == (
        "Objects inside Helm releases, cluster lab:\n"
        "\n"
        "istiod: 1 to change, 1 unchanged\n"
        "  ~ v1 ConfigMap istio-system/shown\n"
        "       apiVersion: v1\n"
        "       data:\n"
        "      -  key: drifted\n"
        "      +  key: new\n"
        "       kind: ConfigMap\n"
        "       metadata:\n"
        "         name: shown\n"
    )


def test_objects_that_come_and_go_in_an_update_are_named(review: Review) -> None:
    tools = Tools(
        live=rendered({}) + config_map("gone", 1), chart=lambda v: rendered(v) + crd("new")
    )
    _, out, _ = review(tools, update({}, {}))
    assert "istiod: 1 to add, 1 to delete, 2 unchanged\n" in out
    assert "\n  + apiextensions.k8s.io/v1 CustomResourceDefinition new\n" in out
    assert "\n  - v1 ConfigMap istio-system/gone\n" in out


def test_an_unreachable_cluster_is_said_and_the_old_inputs_are_rendered(review: Review) -> None:
    tools = Tools(failing="kubectl", error=f"E1123 memcache.go:265\n{UNREACHABLE}\n")
    code, out, _ = review(tools, update({"a": "old"}, {"a": "new"}))
    assert code == 0
    assert f"cluster lab does not answer: {UNREACHABLE}" in out
    assert "note: compared with the inputs of the last update, rendered again\n" in out
    assert "-  key: old" in out
    assert not tools.ran("helm get"), "each call would wait for the same cluster again"
    assert ["--is-upgrade" in call for call in tools.ran("helm template")] == [True, True]


def test_without_a_context_no_cluster_is_asked(review: Review) -> None:
    tools = Tools(live="")
    _, out, _ = review(tools, update({"a": "old"}, {"a": "new"}), flags=())
    assert "no cluster asked (--context)" in out
    assert {tuple(call[:2]) for call in tools.calls} == {("helm", "template")}


def test_without_kubectl_helm_still_asks_the_cluster(review: Review) -> None:
    tools = Tools(missing="kubectl", live=rendered({"a": "live"}))
    _, out, _ = review(tools, update({"a": "old"}, {"a": "new"}))
    assert "-  key: live" in out
    assert "--kube-version" not in tools.ran("helm template")[0]


def test_a_release_that_the_cluster_has_lost_counts_as_new(review: Review) -> None:
    _, out, _ = review(Tools(live=None), update({}, {}))
    assert "istiod: 2 to add\n" in out
    assert "note: Pulumi's state has this release, the cluster does not\n" in out


def test_a_manifest_that_may_not_be_read_is_said_and_rendered_instead(review: Review) -> None:
    tools = Tools(failing="helm get", error="Error: secrets is forbidden")
    code, out, _ = review(tools, update({"a": "old"}, {"a": "new"}))
    assert code == 0
    assert "note: its manifest cannot be read from the cluster: secrets is forbidden\n" in out
    assert "-  key: old" in out


def test_a_first_install_is_counted_by_kind_with_names_only(review: Review) -> None:
    tools = Tools(chart=lambda v: rendered(v) + crd("b") + crd("a"))
    code, out, _ = review(tools, step("create", None, state()))
    assert code == 0
    assert out.split("\n", 2)[2] == (
        "istiod (first install): 4 to add\n"
        "  + 2 ConfigMap: istio-system/fixed, istio-system/shown\n"
        "  + 2 CustomResourceDefinition: a, b\n"
    )
    assert not tools.ran("helm get")


def test_full_prints_new_objects_whole(review: Review) -> None:
    _, out, _ = review(Tools(), step("create", None, state()), flags=("--full",))
    assert "  + v1 ConfigMap istio-system/fixed\n      apiVersion: v1\n      data:\n" in out


def test_an_uninstall_names_what_goes_and_what_stays(review: Review) -> None:
    tools = Tools(live=rendered({}) + crd("kept", keep=True))
    code, out, _ = review(tools, step("delete", state(), None))
    assert code == 0
    assert out.split("\n", 2)[2] == (
        "istiod (uninstall): 2 to delete, 1 left behind\n"
        "  - 2 ConfigMap: istio-system/fixed, istio-system/shown\n"
        "  = 1 CustomResourceDefinition: kept\n"
    )
    assert not tools.ran("helm template")


OLD, NEW = state(values={"a": "old"}), state(values={"a": "new"})


@pytest.mark.parametrize(
    "steps",
    [
        [step("replace", OLD, NEW)],
        [step("create-replacement", None, NEW), step("delete-replaced", OLD, None)],
    ],
)
def test_a_replacement_is_one_release_whose_objects_are_all_made_again(
    steps: Sequence[Json], review: Review
) -> None:
    tools = Tools()
    _, out, _ = review(tools, *steps, flags=())
    assert "istiod (replace): 1 to change, 1 unchanged\n" in out
    assert "note: every object is deleted and made again, unchanged ones too\n" in out
    assert out.count("istiod (") == 1
    assert not any("--is-upgrade" in call for call in tools.calls)


def test_an_unchanged_release_of_a_repository_is_not_rendered(review: Review) -> None:
    tools = Tools()
    code, out, _ = review(tools, step("same", state(), state()))
    assert (code, out, tools.calls) == (0, "No Helm release changes.\n", [])


def folder_step(folder: Path) -> Json:
    side = state(chart=str(folder), repositoryOpts={}, values={"a": "new"})
    return step("same", side, side)


def test_a_changed_chart_folder_is_shown_though_pulumi_will_not_apply_it(
    tmp_path: Path, review: Review
) -> None:
    _, out, _ = review(Tools(live=rendered({"a": "old"})), folder_step(tmp_path))
    assert "istiod (same): 1 to change, 1 unchanged\n" in out
    assert "note: `pulumi up` will NOT apply this: Pulumi sees only the version" in out
    assert "-  key: old" in out


def test_an_unchanged_chart_folder_gives_no_warning(tmp_path: Path, review: Review) -> None:
    _, out, _ = review(Tools(live=rendered({"a": "new"})), folder_step(tmp_path))
    assert "istiod (same): 2 unchanged\n" in out
    assert "NOT" not in out


def test_a_chart_folder_is_not_compared_with_itself(tmp_path: Path, review: Review) -> None:
    code, out, _ = review(Tools(), folder_step(tmp_path), flags=())
    assert code == 0
    assert "istiod (same): not compared\n" in out
    assert "note: only the cluster can tell whether the chart folder has changed\n" in out


def test_an_old_side_from_a_chart_folder_is_said_to_be_todays(
    tmp_path: Path, review: Review
) -> None:
    change = update({"a": 1}, {"a": 2}, chart=str(tmp_path), repositoryOpts={})
    _, out, _ = review(Tools(), change, flags=())
    assert "rendered again, with the chart folder as it is now\n" in out


@pytest.mark.parametrize("field", ["data", "stringData"])
@pytest.mark.parametrize("flags", [(), ("--full",)])
def test_values_of_a_secret_are_never_shown(
    field: str, flags: Sequence[str], review: Review
) -> None:
    def chart(values: Json) -> str:
        made = config_map("ca", values["a"], "Secret") + config_map(
            str(values["a"]), "x9", "Secret"
        )
        return made.replace('"data"', f'"{field}"')

    tools = Tools(chart=chart, live=chart({"a": "plain1"}))
    _, out, _ = review(
        tools, update({"a": "plain1"}, {"a": "plain2"}), flags=("--context", "lab", *flags)
    )
    assert "  ~ v1 Secret istio-system/ca\n" in out
    assert "-  key: '[hidden]'" in out
    assert "+  key: '[hidden, differs]'" in out
    assert "x9" not in out
    assert "key: plain" not in out


def test_a_value_that_pulumi_hides_meets_neither_the_live_manifest_nor_its_old_text(
    review: Review,
) -> None:
    tools = Tools(live=rendered({"a": "plain"}), chart=lambda v: config_map("shown", str(v)))
    change = update(
        {"a": "plain", "b": "old", "list": [{"p": "plain"}]},
        {"a": "[secret]", "b": "new", "list": [{"p": "x"}, {"p": "[secret]"}]},
    )
    _, out, _ = review(tools, change, flags=("--context", "lab", "--full"))
    assert "note: values not rendered, secret or not known: a, list.*.p\n" in out
    assert "''b'': ''new''" in out
    assert "plain" not in out
    assert not tools.ran("helm get")


def test_a_value_that_only_up_will_know_is_said_to_be_unrendered(review: Review) -> None:
    tools = Tools()
    _, out, _ = review(tools, update({"a": 1}, {"a": UNKNOWN}))
    assert "note: values not rendered, secret or not known: a\n" in out
    assert UNKNOWN not in out + "".join(tools.stdin)


@pytest.mark.parametrize("inputs", [{"values": "[secret]"}, {"version": UNKNOWN}])
def test_a_release_that_cannot_be_known_before_up_is_said_so(inputs: Json, review: Review) -> None:
    code, out, _ = review(Tools(), step("create", None, state(**inputs)))
    assert code == 2
    assert "its chart or all its values are secret or only known to `pulumi up`" in out


def labelled(version: str, template: str = "1") -> str:
    meta = {"name": "istiod", "labels": {"helm.sh/chart": version, "app": "istiod"}}
    spec = {"template": {"metadata": {"labels": {"helm.sh/chart": template}}}}
    item = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
    return "---\n" + json.dumps(item) + "\n"


def test_version_labels_are_one_line_for_all_objects(review: Review) -> None:
    tools = Tools(live=labelled("istiod-1"), chart=lambda _: labelled("istiod-2"))
    _, out, _ = review(tools, update({}, {}))
    assert out.split("\n", 2)[2] == (
        "istiod: 1 with new version labels only\n"
        "  label helm.sh/chart istiod-1 -> istiod-2 on 1 objects\n"
    )


def test_a_version_label_of_a_pod_template_is_a_change_as_pods_roll(review: Review) -> None:
    tools = Tools(live=labelled("a-1", "1"), chart=lambda _: labelled("a-2", "2"))
    _, out, _ = review(tools, update({}, {}))
    assert "istiod: 1 to change\n" in out
    assert "helm.sh/chart: '2'" in out
    assert "helm.sh/chart: a-2" not in out


def test_a_crd_is_summarised_unless_full(review: Review) -> None:
    tools = Tools(live=crd("c", text="old"), chart=lambda _: crd("c", text="new"))
    _, out, _ = review(tools, update({}, {}))
    assert out.endswith("CustomResourceDefinition c: 2 lines change\n")
    _, out, _ = review(tools, update({}, {}), flags=("--context", "lab", "--full"))
    assert "+  text: new" in out


def test_long_differences_are_cut_with_a_note_unless_full(review: Review) -> None:
    def chart(values: Json) -> str:
        text = "\n".join(f"{values['a']} {number}" for number in range(MAX_LINES))
        return config_map("long", text)

    change = update({"a": "old"}, {"a": "new"})
    _, out, _ = review(Tools(chart=chart), change, flags=())
    assert out.count(" old ") == MAX_LINES - 3
    assert "      ... and 86 more lines; --full shows all\n" in out
    _, out, _ = review(Tools(chart=chart), change, flags=("--full",))
    assert out.count(" new ") == MAX_LINES
    assert "more lines" not in out


def test_many_changed_objects_are_cut_with_a_note_unless_full(review: Review) -> None:
    def chart(values: Json) -> str:
        return "".join(config_map(f"c{n}", values["a"]) for n in range(MAX_OBJECTS + 2))

    change = update({"a": "old"}, {"a": "new"})
    _, out, _ = review(Tools(chart=chart), change, flags=())
    assert out.count("  ~ v1 ConfigMap") == MAX_OBJECTS + 2, "every name is listed"
    assert out.count("key: new") == MAX_OBJECTS
    assert f"note: only {MAX_OBJECTS} of {MAX_OBJECTS + 2} differences are shown" in out
    _, out, _ = review(Tools(chart=chart), change, flags=("--full",))
    assert out.count("key: new") == MAX_OBJECTS + 2
    assert "note: only" not in out


def test_text_of_many_lines_differs_by_line_even_with_tabs_and_blanks() -> None:
    old, new = config_map("c", "a: \n\tb\nc\n"), config_map("c", "a: \n\tb\nd\n")
    (change,) = compare(split(old), split(new)).changes
    assert [line.strip() for line in diff(change) if line[0] in "+-"] == ["-    c", "+    d"]


def test_a_difference_in_blanks_only_is_said(review: Review) -> None:
    tools = Tools(chart=lambda v: config_map("c", v["a"]))
    _, out, _ = review(tools, update({"a": "x \ny"}, {"a": "x\ny"}), flags=())
    assert "(blanks at the end of lines only)" in out


def test_a_new_api_version_changes_an_object_and_does_not_replace_it() -> None:
    old = "{apiVersion: autoscaling/v1, kind: HorizontalPodAutoscaler, metadata: {name: a}}"
    changes = compare(split(old), split(old.replace("v1", "v2"))).changes
    assert [change.sign for change in changes] == ["~"]


def test_dates_equal_signs_and_numbers_in_quotes_are_read_as_kubernetes_does() -> None:
    text = "{kind: A, metadata: {name: a}, date: 2020-01-01, sign: =, n: 1}"
    (item,) = split(text).values()
    assert (item["date"], item["sign"]) == ("2020-01-01", "=")
    changed = compare(split(text), split(text.replace("n: 1", "n: '1'"))).changes
    assert len(changed) == 1, "a number and its text are not the same to Kubernetes"


def test_helm_gets_what_pulumi_would_give_it(review: Review) -> None:
    new = state(version="1.31.1", values={"a": 15012})
    tools = Tools(live="")
    kubeconfig = ("--context", "lab", "--kubeconfig", "/k")
    review(tools, step("update", state(), new), step("create", None, state("b")), flags=kubeconfig)
    assert [" ".join(call) for call in tools.calls] == [
        "kubectl version -o json --request-timeout=10s --context lab --kubeconfig /k",
        "helm get manifest istiod -n istio-system --kube-context lab --kubeconfig /k",
        "helm template istiod istiod -n istio-system --no-hooks --version 1.31.1 --repo "
        "https://charts.example --kube-version v1.36.2 --is-upgrade -f -",
        "helm template b istiod -n istio-system --no-hooks --repo https://charts.example "
        "--kube-version v1.36.2 --include-crds -f -",
    ]
    assert json.loads(tools.stdin[2]) == {"a": 15012}


def test_skip_crds_leaves_a_charts_crds_folder_out(review: Review) -> None:
    tools = Tools()
    review(tools, step("create", None, state(skipCrds=True)))
    assert "--include-crds" not in tools.ran("helm template")[0]


def test_the_post_renderer_has_the_last_word(review: Review) -> None:
    tools = Tools(live=rendered({"a": "refined"}))
    _, out, _ = review(tools, update({}, {"a": "unrefined"}, postrender="./strip.sh"))
    assert "istiod: 2 unchanged\n" in out
    assert tools.ran("./strip.sh") == [["./strip.sh"]]


def test_a_failing_post_renderer_is_quoted(review: Review) -> None:
    tools = Tools(missing="./strip.sh")
    code, out, _ = review(tools, step("create", None, state(postrender="./strip.sh")))
    assert code == 2
    assert "note: cannot be rendered: not there\n" in out


@pytest.mark.parametrize(
    ("tty", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals_that_want_them(
    *, tty: bool, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch, review: Review
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty)
    _, out, _ = review(Tools(), step("create", None, state()))
    assert ("\x1b[32m  + 2 ConfigMap" in out) is coloured
    assert ("\x1b" in out) is coloured


def test_the_real_runner_gives_input_output_and_exit_code() -> None:
    script = "import sys; print(sys.stdin.read()); sys.exit('why')"
    done = helm.run([sys.executable, "-c", script], "text")
    assert (done.returncode, done.stdout, done.stderr) == (1, "text\n", "why\n")


def test_the_real_runner_tells_a_missing_command_from_a_forbidden_one(tmp_path: Path) -> None:
    forbidden = tmp_path / "tool"
    forbidden.write_text("")
    assert helm.run(["no-such-command-here"], "").returncode == 127
    done = helm.run([str(forbidden)], "")
    assert done.returncode == 1
    assert "Permission denied" in helm.message(done)


def test_releases_are_reviewed_in_the_order_of_the_preview() -> None:
    text = json.dumps({"steps": [step("create", None, state(n)) for n in ("istio-base", "istiod")]})
    assert [(s.release.name, s.op) for s in releases(parse(text))] == [
        ("istio-base", Op.CREATE),
        ("istiod", Op.CREATE),
    ]
