"""The control plane: its order, its values, and the wait for istiod's webhook."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config
import pytest
import urllib3.exceptions
from kubernetes.client.exceptions import ApiException

from components.control_plane import (
    ControlPlane,
    ControlPlaneArgs,
    OutboundTrafficPolicy,
    Revision,
    TraceCollector,
    ask_validation_webhook,
    base_values,
    istiod_values,
    wait_until_validating,
)
from components.kinds import ChartSource, ClusterAccess, Distribution, Profile
from tests.unit import charts
from tests.unit.conftest import Deploy

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ChartSource(location="https://charts.example/istio")
FOLDER = ChartSource(location=str(charts.FOLDER))
ISTIOD = "istio-control/istio-discovery"

DENIED = (
    'admission webhook "validation.istio.io" denied the request: configuration is invalid: '
    "gateway must have at least one server"
)


def arguments(**changes: Any) -> ControlPlaneArgs:
    """Plain ones, with some fields changed: of the distribution too."""
    which = {field.name for field in dataclasses.fields(Distribution)} & changes.keys()
    istio = dataclasses.replace(
        Distribution(version="1.31.1", charts=REPOSITORY, profile=Profile.DEFAULT),
        **{key: changes.pop(key) for key in which},
    )
    access = ClusterAccess(kubeconfig="", context="test")
    return ControlPlaneArgs(istio=istio, access=access, stack="dev", **changes)


def paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from paths(value, f"{above}{key}.")


COLLECTOR = TraceCollector(
    provider="jaeger", host="jaeger-collector.observe.svc.cluster.local", port=4317
)

EVERYTHING = arguments(
    charts=FOLDER,
    profile=Profile.DEMO,
    image_hub="registry.example/istio",
    image_tag="1.2.3",
    trace_collector=COLLECTOR,
    trace_sampling=12.5,
    istiod_env={"PILOT_ENABLE_ALPN_FILTER": "false"},
)


# order


def test_namespace_then_crds_then_istiod(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: ControlPlane("istio", arguments(), opts))

    assert deployed.waits_for("istio-base") == {"istio", "istio-namespace"}
    assert deployed.waits_for("istio-istiod") == {"istio", "istio-namespace", "istio-base"}


def test_names_in_the_cluster_do_not_depend_on_the_components_name(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: ControlPlane("other", arguments(), opts))

    assert deployed.releases().keys() == {"istio-base", "istiod"}
    for release in deployed.releases().values():
        assert release.inputs["namespace"] == "istio-system"
    namespace = deployed.named("other-namespace").inputs["metadata"]
    assert namespace["name"] == "istio-system"
    assert namespace["annotations"]["service-mesh/stack"] == "dev"


def test_istiod_counts_as_ready_when_its_webhook_has_answered(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: ControlPlane("istio", arguments(), opts))

    assert {"after_create", "after_update"} <= set(deployed.named("istio-istiod").hooks)
    assert not {"after_create", "after_update"} & set(deployed.named("istio-base").hooks)


def test_every_release_can_be_installed_again_after_an_update_that_was_killed(
    deploy: Deploy,
) -> None:
    args = arguments(revisions=(CANARY,))
    deployed = deploy(lambda opts: ControlPlane("istio", args, opts))

    assert len(deployed.releases()) == 3
    for release in deployed.releases().values():
        assert {"before_create", "before_update"} <= set(release.hooks)


def test_helm_waits_as_long_as_it_was_told(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: ControlPlane("istio", arguments(timeout_s=90), opts))

    for release in deployed.releases().values():
        assert release.inputs["timeout"] == 90
        assert "skipAwait" not in release.inputs


# istiods beside the default one

CANARY = Revision(name="canary", version="1.32.0")


def test_a_revision_is_a_release_of_its_own_after_the_default_one(deploy: Deploy) -> None:
    args = arguments(revisions=(CANARY, Revision(name="old", version="1.30.4")))
    deployed = deploy(lambda opts: ControlPlane("istio", args, opts))

    assert deployed.releases().keys() == {"istio-base", "istiod", "istiod-canary", "istiod-old"}
    before = {"istio", "istio-namespace", "istio-base", "istio-istiod"}
    assert deployed.waits_for("istio-istiod-canary") == before
    versions = {name: one.inputs["version"] for name, one in deployed.releases().items()}
    assert versions == {
        "istio-base": "1.32.0",  # the CRDs know the fields of every istiod
        "istiod": "1.31.1",
        "istiod-canary": "1.32.0",
        "istiod-old": "1.30.4",
    }
    values = deployed.releases()["istiod-canary"].inputs["values"]
    assert values == istiod_values(args, CANARY)
    assert values.pop("revision") == "canary"
    assert values == deployed.releases()["istiod"].inputs["values"], "all else is the default's"


@pytest.mark.parametrize(
    ("of_default", "of_revision", "tag"),
    [(None, None, "1.32.0"), ("1.31.1-debug", None, "1.32.0"), ("a", "b", "b")],
)
def test_a_revisions_image_is_its_own_versions(
    of_default: str | None, of_revision: str | None, tag: str
) -> None:
    args = arguments(charts=FOLDER, image_tag=of_default)
    values = istiod_values(args, dataclasses.replace(CANARY, image_tag=of_revision))

    assert values["global"]["tag"] == tag


@pytest.mark.parametrize("name", ["", "default"])
def test_the_default_istiods_name_is_no_revisions(name: str) -> None:
    with pytest.raises(ValueError, match="the default istiod's"):
        Revision(name=name, version="1.31.1")


# charts


def test_charts_of_a_repository_are_pinned_to_the_version(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: ControlPlane("istio", arguments(version="1.30.3"), opts))

    for release in deployed.releases().values():
        assert release.inputs["version"] == "1.30.3"
        assert release.inputs["repositoryOpts"] == {"repo": "https://charts.example/istio"}
    assert deployed.releases()["istiod"].inputs["chart"] == "istiod"


def test_charts_of_a_folder_have_no_repository_and_no_version(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: ControlPlane("istio", arguments(charts=FOLDER), opts))

    for release in deployed.releases().values():
        assert not {"version", "repositoryOpts"} & release.inputs.keys()
    assert deployed.releases()["istiod"].inputs["chart"] == str(charts.FOLDER / ISTIOD)


@pytest.mark.parametrize("layout", ["istiod", "istio-control/istio-discovery"])
def test_both_layouts_of_a_folder_are_found(tmp_path: Path, layout: str) -> None:
    (tmp_path / layout).mkdir(parents=True)
    (tmp_path / layout / "Chart.yaml").touch()

    assert ChartSource(location=str(tmp_path)).chart("istiod") == str(tmp_path / layout)


def test_a_folder_without_the_chart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no chart istiod"):
        ChartSource(location=str(tmp_path)).chart("istiod")


@pytest.mark.parametrize(
    ("location", "folder"),
    [("https://charts.example", False), ("charts", True), ("/srv/charts", True)],
)
def test_only_https_is_a_repository(*, location: str, folder: bool) -> None:
    assert ChartSource(location=location).is_folder is folder


# values


def test_istiod_never_has_to_change_what_was_declared() -> None:
    for profile in Profile:
        args = arguments(profile=profile)
        assert base_values(args)["base"] == {"validationFailurePolicy": "Fail"}
        assert istiod_values(args)["base"] == {"validationFailurePolicy": "Fail"}


def test_what_was_not_chosen_is_left_to_the_charts() -> None:
    assert base_values(arguments()) == {"base": {"validationFailurePolicy": "Fail"}}
    assert istiod_values(arguments()) == {
        "base": {"validationFailurePolicy": "Fail"},
        "meshConfig": {"outboundTrafficPolicy": {"mode": "ALLOW_ANY"}},
        "telemetry": {"enabled": True},
    }


@pytest.mark.parametrize("chart", ["base", ISTIOD])
@pytest.mark.parametrize("profile", list(Profile))
def test_a_profile_is_named_only_to_charts_that_have_it(chart: str, profile: Profile) -> None:
    values = base_values if chart == "base" else istiod_values
    named = values(arguments(profile=profile)).get("profile")

    has = (charts.FOLDER / chart / "files" / f"profile-{profile}.yaml").exists()
    assert named == (profile.value if has else None), "the chart fails on a profile it lacks"


def providers(**changes: Any) -> list[dict[str, Any]]:
    """meshConfig.extensionProviders as istiod's templates see them."""
    mesh = effective(dict(istiod_values(arguments(**changes))))["meshConfig"]
    return list(mesh.get("extensionProviders", []))


@pytest.mark.parametrize("profile", list(Profile))
def test_a_collector_is_there_once_beside_the_profiles_providers(profile: Profile) -> None:
    before = [one for one in providers(profile=profile) if one["name"] != "jaeger"]

    assert providers(profile=profile, trace_collector=COLLECTOR) == [
        *before,
        {
            "name": "jaeger",
            "opentelemetry": {
                "service": "jaeger-collector.observe.svc.cluster.local",
                "port": 4317,
            },
        },
    ]


def test_demos_own_collector_is_not_said_again() -> None:
    own = dataclasses.replace(COLLECTOR, host="jaeger-collector.istio-system.svc.cluster.local")
    values = istiod_values(arguments(profile=Profile.DEMO, trace_collector=own))

    assert "extensionProviders" not in values["meshConfig"]
    [found] = [one for one in providers(profile=Profile.DEMO) if one["name"] == "jaeger"]
    assert found["opentelemetry"] == {"service": own.host, "port": own.port}


def test_without_a_collector_the_profiles_providers_stay() -> None:
    for profile in Profile:
        values = istiod_values(arguments(profile=profile))
        assert "extensionProviders" not in values["meshConfig"]


def test_trace_sampling_unset_some_and_none() -> None:
    assert "pilot" not in istiod_values(arguments(trace_sampling=None))
    assert istiod_values(arguments(trace_sampling=12.5))["pilot"] == {"traceSampling": 12.5}
    # to the chart 0 means unset, and then istiod samples 1 percent
    assert istiod_values(arguments(trace_sampling=0.0))["pilot"] == {
        "traceSampling": 0,
        "env": {"PILOT_TRACE_SAMPLING": "0"},
    }


def test_an_operators_sampling_wins_over_the_profiles() -> None:
    values = dict(istiod_values(arguments(profile=Profile.DEMO, trace_sampling=5)))

    assert effective(values)["traceSampling"] == 5


def test_outbound_policy_telemetry_and_environment_arrive() -> None:
    values = istiod_values(
        arguments(
            outbound_traffic_policy=OutboundTrafficPolicy.REGISTRY_ONLY,
            telemetry=False,
            istiod_env={"PILOT_ENABLE_ALPN_FILTER": "false"},
        )
    )

    assert values["meshConfig"]["outboundTrafficPolicy"] == {"mode": "REGISTRY_ONLY"}
    assert values["telemetry"] == {"enabled": False}
    assert values["pilot"] == {"env": {"PILOT_ENABLE_ALPN_FILTER": "false"}}


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({}, None),
        ({"image_tag": "1.2.3"}, {"tag": "1.2.3"}),
        ({"image_hub": "registry.example"}, {"hub": "registry.example"}),
        ({"charts": FOLDER}, {"hub": "registry.istio.io/release", "tag": "1.31.1"}),
        (
            {"charts": FOLDER, "image_hub": "registry.example", "image_tag": "1.2.3"},
            {"hub": "registry.example", "tag": "1.2.3"},
        ),
    ],
)
def test_images_are_the_charts_own_unless_said_otherwise(
    changes: dict[str, Any], images: dict[str, str] | None
) -> None:
    assert istiod_values(arguments(**changes)).get("global") == images


def test_values_reach_helm_as_they_are(deploy: Deploy) -> None:
    deployed = deploy(lambda opts: ControlPlane("istio", EVERYTHING, opts))

    assert deployed.releases()["istiod"].inputs["values"] == istiod_values(EVERYTHING)
    assert deployed.releases()["istio-base"].inputs["values"] == base_values(EVERYTHING)


def effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """istiod's values as its templates see them (`zzz_profile.yaml`, `zzy_descope_legacy.yaml`)."""
    below = charts.defaults(ISTIOD)
    if "profile" in values:
        below = charts.merged(below, charts.profile(ISTIOD, values["profile"]))
    result = charts.merged(below, {k: v for k, v in values.items() if k != "profile"})
    return charts.merged(result, result.pop("pilot", {}))


def test_demo_is_istioctls_demo() -> None:
    ours = effective(dict(istiod_values(arguments(profile=Profile.DEMO))))
    theirs = effective({"profile": "demo"})

    # said aloud here, and Istio's own default (meshconfig: outboundTrafficPolicy)
    assert ours["meshConfig"].pop("outboundTrafficPolicy") == {"mode": "ALLOW_ANY"}
    # against drift; istiod sets it itself after istioctl's installation
    assert ours["base"].pop("validationFailurePolicy") == "Fail"
    assert ours == theirs
    # the profile did something at all
    assert theirs["traceSampling"] == 100
    assert theirs["meshConfig"]["accessLogFile"] == "/dev/stdout"
    assert theirs["resources"] == {"requests": {"cpu": "10m", "memory": "100Mi"}}


# Fields of Istio's MeshConfig, which the chart passes on without knowing them
# (https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/).
MESH_CONFIG = {
    "meshConfig.extensionProviders",
    "meshConfig.outboundTrafficPolicy",
    "meshConfig.outboundTrafficPolicy.mode",
}


def unknown(chart: str, values: Mapping[str, Any]) -> set[str]:
    """Paths that neither the chart's values nor its templates know: they would do nothing."""
    known = set(paths(charts.defaults(chart)))
    used = set(re.findall(r"\.Values\.([\w.]+)", charts.templates(chart)))
    return {
        path
        for path in paths(values)
        # everything under `pilot` is moved up (templates/zzy_descope_legacy.yaml)
        if not {path, path.removeprefix("pilot.")} & (known | used | MESH_CONFIG)
        and not path.startswith("pilot.env.")
        and path not in {"pilot", "profile"}
    }


def test_every_value_we_set_is_one_the_chart_knows() -> None:
    assert unknown("base", base_values(EVERYTHING)) == set()
    assert unknown(ISTIOD, istiod_values(EVERYTHING, CANARY)) == set()


def test_a_misspelt_value_would_be_noticed() -> None:
    values = dict(istiod_values(EVERYTHING))
    values["telemtry"] = {"enabled": True}
    values["global"] = {"hubb": "registry.example"}
    values["pilot"] = {"tracesampling": 1}

    assert unknown(ISTIOD, values) == {
        "telemtry",
        "telemtry.enabled",
        "global.hubb",
        "pilot.tracesampling",
    }


# refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeout_s": 29}, "timeout_s is 29; expected 30 to 3600"),
        ({"timeout_s": 3601}, "timeout_s is 3601; expected 30 to 3600"),
        ({"trace_sampling": -0.1}, "trace_sampling is -0.1; expected 0 to 100"),
        ({"trace_sampling": 100.5}, "trace_sampling is 100.5; expected 0 to 100"),
        ({"istiod_env": {"PILOT_TRACE_SAMPLING": "5"}}, "use trace_sampling"),
    ],
)
def test_arguments_that_the_charts_would_take_in_silence_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(**changes)


@pytest.mark.parametrize(
    "changes", [{"timeout_s": 30}, {"timeout_s": 3600}, {"trace_sampling": 100}]
)
def test_the_bounds_themselves_are_allowed(changes: dict[str, Any]) -> None:
    assert arguments(**changes)


# CRDs on destroy


def test_crds_are_kept_unless_they_shall_go(deploy: Deploy) -> None:
    kept = deploy(lambda opts: ControlPlane("istio", arguments(), opts)).releases()
    gone = deploy(lambda opts: ControlPlane("istio", arguments(keep_crds=False), opts)).releases()

    assert "postrender" not in kept["istio-base"].inputs
    script = gone["istio-base"].inputs["postrender"]
    assert not Path(script).is_absolute(), "a path of this machine would be a difference elsewhere"
    assert os.access(ROOT / script, os.X_OK), "Helm runs it as it is"
    assert "postrender" not in gone["istiod"].inputs


def rendered(manifests: str) -> str:
    return subprocess.run(
        [ROOT / "components" / "drop_keep_policy.sh"],
        input=manifests,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "line",
    [
        "helm.sh/resource-policy: keep",
        '"helm.sh/resource-policy": keep',
        "'helm.sh/resource-policy': 'keep'",
        'helm.sh/resource-policy:   "keep"  ',
    ],
)
def test_the_keep_policy_is_dropped_however_it_is_quoted(line: str) -> None:
    before, after = "metadata:\n  annotations:\n", "    other: keep\n  name: x\n"

    assert rendered(f"{before}    {line}\n{after}") == before + after


@pytest.mark.parametrize(
    "line",
    [
        "helm.sh/resource-policy: other",
        "helm.sh/resource-policy-x: keep",
        "x.helm.sh/resource-policy: keep",
        "note: helm.sh/resource-policy: keep",
        "description: the annotation helm.sh/resource-policy: keep does it",
    ],
)
def test_nothing_else_is_dropped(line: str) -> None:
    assert rendered(f"a: 1\n{line}\n") == f"a: 1\n{line}\n"


def test_of_istios_crds_only_the_keep_policy_goes() -> None:
    before, after = charts.crds().splitlines(), rendered(charts.crds()).splitlines()
    dropped = [line for line in before if "helm.sh/resource-policy" in line]

    assert len(dropped) == before.count("kind: CustomResourceDefinition") > 10
    assert after == [line for line in before if line not in dropped]


# the webhook


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def answering(*answers: str) -> tuple[Callable[[], str], list[str]]:
    """Gives these answers in turn, the last one for ever; and the list of what was given."""
    given: list[str] = []

    def ask() -> str:
        given.append(answers[min(len(given), len(answers) - 1)])
        return given[-1]

    return ask, given


@pytest.mark.parametrize("webhook", ["validation.istio.io", "rev.validation.istio.io"])
def test_a_refusal_by_istios_webhook_ends_the_wait(webhook: str) -> None:
    clock = Clock()
    ask, given = answering(f'admission webhook "{webhook}" denied the request')

    wait_until_validating(ask, now=clock.now, sleep=clock.sleep)

    assert len(given) == 1
    assert clock.time == 0


@pytest.mark.parametrize(
    "answer",
    [
        "accepted a Gateway without servers",
        'Internal error occurred: failed calling webhook "validation.istio.io": connection refused',
        'admission webhook "validate.kyverno.svc" denied the request',
        'admission webhook "validation.istio.io.example" denied the request',
    ],
)
def test_no_other_answer_ends_the_wait(answer: str) -> None:
    clock = Clock()
    ask, given = answering(answer, answer, DENIED)

    wait_until_validating(ask, now=clock.now, sleep=clock.sleep)

    assert len(given) == 3


def test_the_wait_gives_up_at_the_deadline_and_says_what_it_saw() -> None:
    clock = Clock()
    ask, _ = answering("connection refused")

    with pytest.raises(TimeoutError) as failure:
        wait_until_validating(
            ask,
            kubectl="kubectl --context test",
            deadline_s=60,
            now=clock.now,
            sleep=clock.sleep,
        )

    assert 60 <= clock.time < 62
    message = str(failure.value)
    assert "did not answer within 60 s" in message
    assert "connection refused" in message
    assert "kubectl --context test -n istio-system logs deployment/istiod" in message


class FakeApi:
    """Stands in for `CustomObjectsApi`: answers with one outcome and keeps the question."""

    def __init__(self, outcome: Exception | None) -> None:
        self.outcome = outcome
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, _: object) -> FakeApi:
        return self

    def create_namespaced_custom_object(self, *args: object, **options: object) -> None:
        self.asked.append((args, options))
        if self.outcome is not None:
            raise self.outcome


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], FakeApi]:
    def install(outcome: Exception | None) -> FakeApi:
        fake = FakeApi(outcome)
        monkeypatch.setattr(kubernetes.client, "CustomObjectsApi", fake)
        monkeypatch.setattr(
            kubernetes.config,
            "new_client_from_config",
            types.SimpleNamespace,
        )
        return fake

    return install


def refusal(body: str) -> ApiException:
    error = ApiException(status=400, reason="Bad Request")
    error.body = body
    return error


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (None, "accepted a Gateway without servers"),
        (refusal(json.dumps({"kind": "Status", "message": DENIED})), DENIED),
        (refusal("a proxy's page"), "a proxy's page"),
        (refusal("[]"), "[]"),
        (ApiException(status=500, reason="Internal Server Error"), "Internal Server Error"),
        (urllib3.exceptions.HTTPError("refused"), "refused"),
    ],
)
def test_every_answer_of_the_api_server_is_put_into_words(
    api: Callable[[Exception | None], FakeApi], outcome: Exception | None, answer: str
) -> None:
    api(outcome)

    assert ask_validation_webhook(ClusterAccess(kubeconfig="", context="test"))() == answer


def test_the_question_is_a_dry_run_of_what_only_istio_refuses(
    api: Callable[[Exception | None], FakeApi],
) -> None:
    fake = api(None)

    ask_validation_webhook(ClusterAccess(kubeconfig="", context="test"))()

    [(args, options)] = fake.asked
    assert args[:4] == ("networking.istio.io", "v1", "istio-system", "gateways")
    assert args[4]["spec"] == {"servers": []}
    assert options["dry_run"] == "All", "nothing may be written"
    assert options["_request_timeout"], "a question without end would outlive the deadline"


@pytest.mark.parametrize(("kubeconfig", "passed"), [("", None), ("/k/config", "/k/config")])
def test_the_cluster_is_asked_through_the_settings_context(
    monkeypatch: pytest.MonkeyPatch, kubeconfig: str, passed: str | None
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(
        kubernetes.config, "new_client_from_config", lambda **how: asked.update(how)
    )

    ask_validation_webhook(ClusterAccess(kubeconfig=kubeconfig, context="test"))

    assert asked == {"config_file": passed, "context": "test"}


def test_kubectl_commands_name_the_context_quoted() -> None:
    assert ClusterAccess(kubeconfig="", context="kind").kubectl() == "kubectl --context kind"
    assert (
        ClusterAccess(kubeconfig="/a b/config", context="it's").kubectl()
        == """kubectl --kubeconfig '/a b/config' --context 'it'"'"'s'"""
    )
