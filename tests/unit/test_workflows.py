"""The workflows: pinned, with no right too many, and made of steps that a laptop has, too."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github"
FILES = sorted(FOLDER.glob("workflows/*.yml"))
ACTIONS = sorted(FOLDER.glob("actions/*/action.yml"))
EVERYTHING = [*FILES, *ACTIONS]

TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
NO_TARGET = {'pulumi org set-default "$ORGANIZATION"', 'test "$CONFIRM" = "$STACK"'}
"""Steps that a laptop has no use for."""

PIN = re.compile(r"(?P<action>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40}) # (?P<tag>v\d+\.\d+\.\d+)")
STACK = re.compile(r"\$\{\{ (matrix|inputs)\.stack \}\}")


def read(file: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(file.read_text())
    return found


def triggers(workflow: dict[Any, Any]) -> dict[str, Any]:
    # YAML 1.1 takes the word `on` for true
    found: dict[str, Any] = workflow[True]
    return found


JOBS = {f"{file.stem}-{name}": job for file in FILES for name, job in read(file)["jobs"].items()}
STEPS = {
    **{name: job["steps"] for name, job in JOBS.items()},
    **{file.parent.name: read(file)["runs"]["steps"] for file in ACTIONS},
}
OF_A_STACK = {name: job for name, job in JOBS.items() if STACK.search(yaml.safe_dump(job))}
RUNS = [step["run"] for steps in STEPS.values() for step in steps if "run" in step]


def uses(name: str) -> list[dict[str, Any]]:
    return [step for step in STEPS[name] if "uses" in step]


def test_there_is_a_workflow_for_each_occasion() -> None:
    found = {file.stem: set(triggers(read(file))) for file in FILES}
    assert found == {
        "ci": {"pull_request", "push"},
        "preview": {"pull_request"},
        "update": {"push"},
        "drift": {"schedule", "workflow_dispatch"},
        "destroy": {"workflow_dispatch"},
    }


@pytest.mark.parametrize("file", EVERYTHING, ids=lambda file: file.stem)
def test_every_action_of_others_is_pinned_by_commit_and_says_which_release(file: Path) -> None:
    named = re.findall(r"uses: *(.+)", file.read_text())
    theirs = [one for one in named if not one.startswith("./")]
    assert theirs or not named
    assert [one for one in theirs if not PIN.fullmatch(one)] == []


def test_an_action_has_one_pin() -> None:
    text = "".join(file.read_text() for file in EVERYTHING)
    pins = {match["action"]: match["commit"] for match in PIN.finditer(text)}
    assert {(m["action"], m["commit"]) for m in PIN.finditer(text)} == set(pins.items())


@pytest.mark.parametrize("name", STEPS)
def test_actions_of_our_own_are_there(name: str) -> None:
    ours = [step["uses"] for step in uses(name) if step["uses"].startswith("./")]
    assert [one for one in ours if not (ROOT / one / "action.yml").exists()] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_gives_nothing_that_a_job_does_not_ask_for(file: Path) -> None:
    assert read(file)["permissions"] == {}


def test_the_only_rights_to_write_are_a_token_for_pulumi_and_the_comment() -> None:
    writes = {
        name: {right for right, kind in job["permissions"].items() if kind == "write"}
        for name, job in JOBS.items()
    }
    assert {name: rights for name, rights in writes.items() if rights} == {
        "preview-preview": {"id-token", "pull-requests"},
        "update-update": {"id-token"},
        "drift-drift": {"id-token"},
        "destroy-destroy": {"id-token"},
    }
    assert all(job["permissions"].get("contents", "read") == "read" for job in JOBS.values())


def test_a_token_for_pulumi_is_asked_for_where_it_is_used_and_nowhere_else() -> None:
    asking = {name for name, job in JOBS.items() if "id-token" in job["permissions"]}
    assert asking == {
        name for name in JOBS if any(step["uses"].startswith("./") for step in uses(name))
    }


@pytest.mark.parametrize("file", EVERYTHING, ids=lambda file: file.stem)
def test_nothing_is_stored_as_a_secret_and_no_code_of_others_runs_with_rights(file: Path) -> None:
    text = file.read_text()
    assert "secrets." not in text
    assert "pull_request_target" not in text
    assert "workflow_run" not in text


def test_forks_get_a_preview_without_credentials_and_nothing_else_does_from_them() -> None:
    same = "github.event.pull_request.head.repo.full_name == github.repository"
    assert JOBS["preview-preview"]["if"] == f"vars.PULUMI_ORG != '' && {same}"
    assert JOBS["preview-fork"]["if"] == same.replace("==", "!=")
    fork = yaml.safe_dump(JOBS["preview-fork"])
    assert "token" not in fork
    assert "vars.PULUMI" not in fork


@pytest.mark.parametrize("name", STEPS)
def test_a_checkout_leaves_no_token_behind(name: str) -> None:
    checkouts = [step for step in uses(name) if step["uses"].startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("run", RUNS)
def test_a_step_is_a_target_of_the_makefile(run: str) -> None:
    words = run.split()
    assert run in NO_TARGET or words[0] == "make"
    # the first word that is neither an option nor a variable
    target = next((w for w in words[1:] if not w.startswith("-") and "=" not in w), "")
    assert run in NO_TARGET or target in TARGETS


@pytest.mark.parametrize("run", RUNS)
def test_what_others_choose_reaches_a_shell_as_a_variable_only(run: str) -> None:
    assert "${{" not in run


@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends_by_itself_and_its_runner_is_of_a_known_release(name: str) -> None:
    assert 0 < JOBS[name]["timeout-minutes"] <= 60
    assert re.fullmatch(r"ubuntu-\d\d\.04", JOBS[name]["runs-on"])


@pytest.mark.parametrize("name", OF_A_STACK)
def test_a_stack_has_one_run_at_a_time(name: str) -> None:
    if name == "destroy-confirm":
        assert "make" not in yaml.safe_dump(JOBS[name]), "touches no stack"
        return
    said = JOBS[name]["concurrency"]
    group = STACK.sub("STACK", said["group"])
    if name.startswith("preview-"):
        # they only read, and those of two pull requests must not end one another
        assert group == "preview-${{ github.event.pull_request.number }}-STACK"
    else:
        assert (group, said["cancel-in-progress"]) == ("stack-STACK", False)


@pytest.mark.parametrize("name", OF_A_STACK)
def test_every_target_works_on_the_stack_of_its_job(name: str) -> None:
    assert STACK.fullmatch(JOBS[name].get("env", JOBS[name]["steps"][0].get("env"))["STACK"])


def test_a_stack_is_written_by_jobs_that_an_environment_guards_and_read_by_the_others() -> None:
    access = {
        name: step["with"]["access"]
        for name in JOBS
        for step in uses(name)
        if step["uses"].startswith("./")
    }
    assert access == {
        "preview-preview": "preview",
        "drift-drift": "preview",
        "update-update": "update",
        "destroy-destroy": "update",
    }
    for name, job in JOBS.items():
        assert ("environment" in job) == (access.get(name) == "update"), name
    assert JOBS["destroy-destroy"]["environment"] == "${{ inputs.stack }}-destroy"
    assert JOBS["destroy-destroy"]["needs"] == "confirm"


def test_a_comment_is_posted_for_a_preview_that_failed_too() -> None:
    preview, comment = (
        next(step for step in STEPS["preview-preview"] if word in step.get("run", ""))
        for word in ("pr-preview", "pr-comment")
    )
    assert comment["if"] == f"${{{{ !cancelled() && steps.{preview['id']}.outcome != 'skipped' }}}}"
    default = re.search(r"^COMMENT \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert default
    assert preview["run"].endswith(f" > {default[1]}")


def test_the_pulumi_cli_is_the_release_that_the_program_is_pinned_to() -> None:
    pinned = re.search(r"^pulumi==(.+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    text = "".join(file.read_text() for file in EVERYTHING)
    versions = re.findall(r"(?<!python-)version: (\d\S+)", text)
    assert pinned
    assert versions
    assert set(versions) == {pinned[1]}


def test_the_stack_of_the_kind_job_names_the_cluster_that_the_job_makes() -> None:
    job = JOBS["ci-kind"]
    (kind,) = [step for step in uses("ci-kind") if step["uses"].startswith("helm/kind-action@")]
    stack = read(ROOT / f"Pulumi.{job['env']['STACK']}.yaml")
    context = stack["config"]["service-mesh:kubeContext"]
    assert context == f"kind-{kind['with']['cluster_name']}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which the Makefile can be used, without a stack."""
    for name in ("Makefile", ".venv", *(file.name for file in ROOT.glob("requirements*.txt"))):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ("  service-mesh:kubeContext: prod", False),
        ("  service-mesh:kubeContext: 'prod'", False),
        ('  service-mesh:kubeContext: "prod"', False),
        ("  service-mesh:profile: demo", True),
        ("  service-mesh:kubeContext: ''", True),
        ('  service-mesh:kubeContext: ""', True),
        ("  service-mesh:kubeContext:", True),
        ("  service-mesh:kubeContext: # later", True),
        ("  # service-mesh:kubeContext: prod", True),
    ],
)
def test_a_stack_that_would_start_a_lab_on_a_runner_is_refused(
    checkout: Path, settings: str, *, refused: bool
) -> None:
    (checkout / "Pulumi.shop.yaml").write_text(f"config:\n{settings}\n")
    assert bool(own_cluster(checkout)) == refused


def test_a_stack_without_settings_is_refused_with_the_command_that_names_its_cluster(
    checkout: Path,
) -> None:
    assert "pulumi config set kubeContext NAME --stack shop" in own_cluster(checkout)


def own_cluster(checkout: Path) -> str:
    """What `make own-cluster` has against the stack `shop`."""
    done = subprocess.run(
        ["make", "-s", "-C", str(checkout), "own-cluster", "STACK=shop"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(done.stderr) == bool(done.returncode)
    return done.stderr


def test_the_kind_job_takes_away_what_it_has_made_whatever_happened() -> None:
    last = STEPS["ci-kind"][-1]
    assert (last["run"], last["if"]) == ("make down", "${{ !cancelled() }}")
    # a runner has nobody to ask
    assert JOBS["ci-kind"]["env"]["PULUMI_SKIP_CONFIRMATIONS"] == "true"
    assert JOBS["destroy-destroy"]["env"]["PULUMI_SKIP_CONFIRMATIONS"] == "true"
