"""The programs that stand for Bookinfo's images, as they run in a pod: processes, over loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.apps import calls, echo, get, podinfo, productpage, ratings
from lab.apps.httpd import Request, Response, Server, reply

ROOT = Path(__file__).resolve().parents[2]
HERE = "127.0.0.1"
COLLECTOR = "otlp_collector"
TRACE = {
    "x-request-id": "r-1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-b3-traceid": "463ac35c9f6413ad",
    "b3": "463ac35c9f6413ad-a2fb4a1d1a96d312-1",
    "x-datadog-trace-id": "7",
    "authorization": "Bearer of-nothing",
}
PEER = 'By=spiffe://c/sa/server;Subject="CN=a,URI=x";URI=spiffe://c/sa/'


class Program:
    """One of the programs, started as a container starts it."""

    def __init__(self, name: str, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            # -S -E: what is imported is the standard library's, whatever is installed
            [sys.executable, "-S", "-E", "-m", f"lab.apps.{name}", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
        )
        self._port: int | None = None

    @property
    def port(self) -> int:
        """Where it listens; waits until it does."""
        if self._port is None:
            self._port = int(json.loads(self.first_line())["listening"])
        return self._port

    def first_line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def terminate(self) -> None:
        self._process.terminate()

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Its exit code and the rest of its log; ends it, if that was not done."""
        self._process.terminate()
        try:
            output, _ = self._process.communicate(timeout=5)
        finally:
            self._process.kill()
        return self._process.returncode, [json.loads(line) for line in output.splitlines()]


@contextlib.contextmanager
def programs(*started: Program) -> Iterator[None]:
    try:
        yield
    finally:
        for program in started:
            program.terminate()
        for program in started:
            program.end()


def server(name: str, *arguments: str, **environment: str) -> Program:
    return Program(name, "--host", HERE, "--port", "0", *arguments, **environment)


def at(service: str, port: int) -> dict[str, str]:
    return {f"{service}_HOSTNAME": HERE, f"{service}_SERVICE_PORT": str(port)}


def fetch(port: int, path: str, headers: Mapping[str, str] | None = None) -> calls.Answer:
    return calls.fetch(f"http://{HERE}:{port}{path}", headers or {}, 5)


def send(
    port: int, method: str, path: str, body: str, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection(HERE, port, timeout=5)) as connection:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


Stand = Callable[[Callable[[Request], Response]], int]


@contextlib.contextmanager
def stand_in() -> Iterator[Stand]:
    """Services of the test's own, on our server, in threads."""
    servers: list[Server] = []

    def start(answer: Callable[[Request], Response]) -> int:
        one = Server(answer, HERE, 0)
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(one)
        return one.server_address[1]

    try:
        yield start
    finally:
        for one in servers:
            one.stop(drain=0, grace=1)


@pytest.fixture
def stand() -> Iterator[Stand]:
    with stand_in() as start:
        yield start


Front = Callable[[int, int], int]


@pytest.fixture
def front(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Front:
    """A productpage in a thread, given the ports of details and reviews."""
    monkeypatch.setattr(productpage, "_results", Counter())

    def start(details: int, reviews: int) -> int:
        for name, value in (at("DETAILS", details) | at("REVIEWS", reviews)).items():
            monkeypatch.setenv(name, value)
        return stand(productpage.answer)

    return start


class Recorded:
    """What the stand-in for ratings was sent, and where all the others listen."""

    def __init__(self) -> None:
        self.ratings: list[Request] = []
        self.port: dict[str, int] = {}


@pytest.fixture(scope="module")
def bookinfo() -> Iterator[Recorded]:
    """Details, three reviews and a productpage for each; `down` has no ratings behind it."""
    recorded = Recorded()

    def ratings(request: Request) -> Response:
        recorded.ratings.append(request)
        return reply({"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}})

    with stand_in() as start, socket.socket() as nobody:
        nobody.bind((HERE, 0))  # bound and not listening: refused, and nobody else gets it
        real, gone = at("RATINGS", start(ratings)), at("RATINGS", nobody.getsockname()[1])
        back = {
            "details": server("details"),
            "ratings": server("ratings"),
            "v1": server("reviews", SERVICE_VERSION="v1", **real),
            "v2": server("reviews", SERVICE_VERSION="v2", **real),
            "v3": server("reviews", SERVICE_VERSION="v3", **real),
            "down": server("reviews", SERVICE_VERSION="v2", **gone),
        }
        with programs(*back.values()):
            front = {
                f"page-{name}": server(
                    "productpage",
                    **at("DETAILS", back["details"].port),
                    **at("REVIEWS", program.port),
                )
                for name, program in back.items()
                if name not in {"details", "ratings"}
            }
            with programs(*front.values()):
                recorded.port = {name: one.port for name, one in (back | front).items()}
                yield recorded


def page(bookinfo: Recorded, name: str, headers: Mapping[str, str] | None = None) -> str:
    answer = fetch(bookinfo.port[f"page-{name}"], "/productpage?u=normal", headers)
    assert answer.status == 200
    return answer.body.decode()


# --- Bookinfo ------------------------------------------------------------------------------------


def test_details_has_the_keys_that_bookinfo_has(bookinfo: Recorded) -> None:
    answer = fetch(bookinfo.port["details"], "/details/3")
    book = json.loads(answer.body)
    assert book["id"] == 3
    assert set(book) == {
        *("id", "author", "year", "type", "pages", "publisher", "language", "ISBN-10", "ISBN-13")
    }
    assert answer.headers["x-served-by"] == f"{socket.gethostname()} v1"


@pytest.mark.parametrize("path", ["/details/x", "/details/\u0663", "/details/" + "9" * 5000])
def test_a_product_that_is_no_number_is_refused(bookinfo: Recorded, path: str) -> None:
    status, _, body = send(bookinfo.port["details"], "GET", path.replace("\u0663", "%D9%A3"), "")
    assert (status, "not the number" in json.loads(body)["error"]) == (400, True)


@pytest.mark.parametrize("name", ["details", "ratings", "v1", "page-v1"])
def test_health_is_answered_and_unknown_paths_are_not_found(bookinfo: Recorded, name: str) -> None:
    assert fetch(bookinfo.port[name], "/health").status == 200
    assert fetch(bookinfo.port[name], "/nothing/here").status == 404


@pytest.mark.parametrize(("version", "color"), [("v1", None), ("v2", "black"), ("v3", "red")])
def test_only_v2_and_v3_have_stars_black_and_red(
    bookinfo: Recorded, version: str, color: str | None
) -> None:
    body = json.loads(fetch(bookinfo.port[version], "/reviews/0").body)
    assert set(body) == {"id", "podname", "clustername", "reviews"}
    expected = [color and {"stars": n, "color": color} for n in (5, 4)]
    assert [review.get("rating") for review in body["reviews"]] == expected
    stars = re.findall(r'class="stars (\w+)" title="(\d) of 5">(★+)', page(bookinfo, version))
    assert stars == ([(color, "5", "★★★★★"), (color, "4", "★★★★")] if color else [])


def test_a_trace_reaches_ratings_through_productpage_and_reviews(bookinfo: Recorded) -> None:
    bookinfo.ratings.clear()
    page(bookinfo, "v3", TRACE | {"x-forwarded-client-cert": "URI=spiffe://x", "accept": "a/b"})
    (request,) = bookinfo.ratings
    assert {name: request.headers.get(name) for name in TRACE} == TRACE
    # whoever called productpage did not call ratings
    assert not {"x-forwarded-client-cert", "accept"} & set(request.headers)


def test_without_ratings_the_page_is_there_and_says_so(bookinfo: Recorded) -> None:
    body = page(bookinfo, "down")
    assert body.count("Ratings service is currently unavailable") == 2
    assert "William Shakespeare" in body
    assert 'class="stars' not in body


def test_without_reviews_the_page_is_there_and_says_so(
    bookinfo: Recorded, stand: Stand, front: Front
) -> None:
    asked: list[str] = []

    def broken(request: Request) -> Response:
        asked.append(request.target)
        return reply({}, 503)

    port = front(bookinfo.port["details"], stand(broken))
    body = fetch(port, "/productpage").body.decode()
    metrics = fetch(port, "/metrics").body.decode()
    api = fetch(port, "/api/v1/products/0/reviews")
    assert "reviews answered 503" in body
    assert asked[:2] == ["/reviews/0"] * 2, "it is asked a second time"
    assert 'request_result_total{destination_app="reviews",response_code="503"} 2\n' in metrics
    assert 'request_result_total{destination_app="details",response_code="200"} 1\n' in metrics
    assert (api.status, json.loads(api.body)) == (503, {"error": "reviews answered 503"})


def test_the_page_bears_a_service_that_is_down_and_one_that_says_nonsense(
    stand: Stand, front: Front
) -> None:
    with socket.socket() as nobody:
        nobody.bind((HERE, 0))
        port = front(port_of(nobody), stand(lambda _: Response(b"<html>")))
        answer = fetch(port, "/productpage")
    assert answer.status == 200
    assert b"details did not answer" in answer.body
    assert b"reviews did not answer" in answer.body


def test_login_sets_end_user_until_logout(bookinfo: Recorded) -> None:
    port = bookinfo.port["page-v2"]
    status, headers, _ = send(port, "POST", "/login", "username=jason&passwd=any")
    assert (status, headers["location"]) == (302, "/productpage")
    assert "HttpOnly" in headers["set-cookie"]
    cookie = {"cookie": f"a=b; {headers['set-cookie'].partition(';')[0]}; c=d"}
    bookinfo.ratings.clear()
    assert "<b>jason</b>" in page(bookinfo, "v2", cookie)
    page(bookinfo, "v2")
    assert [r.headers.get("end-user") for r in bookinfo.ratings] == ["jason", None]
    _, headers, _ = send(port, "GET", "/logout", "")
    assert headers["set-cookie"].startswith("user=; ")
    assert "Max-Age=0" in headers["set-cookie"]


@pytest.mark.parametrize("name", ["", "a%0d%0aevil: 1", "<script>", "x" * 65])
def test_a_name_that_could_break_a_header_or_a_page_is_refused(
    bookinfo: Recorded, name: str
) -> None:
    status, headers, body = send(bookinfo.port["page-v1"], "POST", "/login", f"username={name}")
    assert status == 400
    assert not {"set-cookie", "evil"} & set(headers)
    assert b"<script>" not in body


def test_whatever_services_say_is_escaped(stand: Stand, front: Front) -> None:
    evil = "<script>&\"'"
    rating = {"stars": 99, "color": '"><script>'}
    reviews = [
        {"reviewer": evil, "text": evil, "rating": {"error": evil}},
        {"reviewer": evil, "text": evil, "rating": rating},
        "not a review",
    ]
    headers = {"x-served-by": evil, "x-forwarded-client-cert-seen": "URI=<script>"}
    port = front(
        stand(lambda _: reply({evil: evil})._replace(headers=headers)),
        stand(lambda _: reply({"reviews": reviews})._replace(headers=headers)),
    )
    body = fetch(port, "/productpage?u=<script>").body.decode()
    assert "<script" not in body
    assert body.count("&lt;script&gt;&amp;&quot;&#x27;") == 2 + 5 + 2
    assert 'title="5 of 5"' in body


def test_the_page_says_whose_certificate_each_service_saw(
    bookinfo: Recorded, stand: Stand, front: Front
) -> None:
    seen = {"x-forwarded-client-cert-seen": f"URI=spiffe://c/sa/forged,{PEER}productpage"}
    port = front(stand(lambda _: reply({})._replace(headers=seen)), bookinfo.port["v1"])
    gateway = {"x-forwarded-client-cert": f"{PEER}gateway"}
    body = fetch(port, "/productpage", gateway).body.decode()
    callers = re.findall(r"<th>(\w+)</th>.*?<td>(called by .*?)</td>", body)
    assert dict(callers) == {
        "productpage": "called by <b>spiffe://c/sa/gateway</b> over mutual TLS",
        "details": "called by <b>spiffe://c/sa/productpage</b> over mutual TLS",
        "reviews": "called by somebody who showed no certificate",
    }


def test_the_certificate_a_service_saw_is_in_its_answer(bookinfo: Recorded) -> None:
    sent = {"X-Forwarded-Client-Cert": f"{PEER}reviews"}
    headers = fetch(bookinfo.port["details"], "/details/0", sent).headers
    assert headers["x-forwarded-client-cert-seen"] == f"{PEER}reviews"
    unseen = fetch(bookinfo.port["details"], "/details/0").headers
    assert "x-forwarded-client-cert-seen" not in unseen


def test_the_api_gives_what_the_services_say(bookinfo: Recorded) -> None:
    def api(path: str) -> Any:
        return json.loads(fetch(bookinfo.port["page-v2"], f"/api/v1/products{path}").body)

    assert [product["id"] for product in api("")] == [0]
    assert api("/0")["author"] == "William Shakespeare"
    assert len(api("/0/reviews")["reviews"]) == 2
    port = bookinfo.port["page-v2"]
    assert fetch(port, "/api/v1/products/0/nothing").status == 404
    assert fetch(port, "/api/v1/products/..%2f..%2fhealth/reviews").status == 400


def test_the_style_sheet_and_the_index_are_served(bookinfo: Recorded) -> None:
    port = bookinfo.port["page-v1"]
    css = fetch(port, "/static/style.css")
    assert (css.status, css.headers["content-type"]) == (200, "text/css")
    assert fetch(port, "/static/../productpage.py").status == 404
    assert b'href="/productpage"' in fetch(port, "/").body


def test_ratings_are_stored_per_product_and_only_when_they_are_ratings(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratings, "_changed", {})
    port = stand(ratings.answer)
    first = {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}
    assert json.loads(fetch(port, "/ratings/0").body) == first
    for method, stars in (("POST", 1), ("PUT", 2)):
        status, _, body = send(port, method, "/ratings/1", json.dumps({"Reviewer1": stars}))
        stored = {"id": 1, "ratings": {"Reviewer1": stars}}
        assert (status, json.loads(body)) == (200, stored)
        assert json.loads(fetch(port, "/ratings/1").body) == stored
    for bad in ("", "[]", '{"R": 6}', '{"R": true}', '{"R": "5"}'):
        assert send(port, "PUT", "/ratings/0", bad)[0] == 400, bad
    assert json.loads(fetch(port, "/ratings/0").body) == first
    assert fetch(port, "/health").status == 200


def test_ratings_of_many_products_do_not_fill_the_memory(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratings, "_changed", {})
    monkeypatch.setattr(ratings, "_MOST", 1)
    port = stand(ratings.answer)
    kept = [send(port, "PUT", f"/ratings/{n}", '{"R": 1}')[0] for n in (1, 2, 1)]
    assert kept == [200, 507, 200]


# --- podinfo -------------------------------------------------------------------------------------


def test_podinfo_answers_with_the_headers_that_its_proxy_added(stand: Stand) -> None:
    port = stand(podinfo.answer)
    found = json.loads(fetch(port, "/headers", {"X-Forwarded-Client-Cert": PEER}).body)
    assert found["X-Forwarded-Client-Cert"] == [PEER]
    assert [fetch(port, path).status for path in ("/", "/healthz", "/readyz")] == [200, 200, 200]
    assert fetch(port, "/echo").status == 404, "echo is a POST"


def test_podinfo_passes_an_echo_on_to_its_backend_with_the_headers_of_the_trace(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = stand(podinfo.answer)
    assert send(port, "POST", "/echo", "hello")[::2] == (202, b"hello")
    monkeypatch.setenv("PODINFO_BACKEND_URL", f"http://{HERE}:{stand(echo.answer)}/?status=503")
    assert "503" in json.loads(send(port, "POST", "/echo", "hello")[2])[0]
    monkeypatch.setenv("PODINFO_BACKEND_URL", f"http://{HERE}:1/echo")
    assert "failed" in json.loads(send(port, "POST", "/api/echo", "hello")[2])[0]
    last = stand(lambda request: reply(request.headers))
    monkeypatch.setenv("PODINFO_BACKEND_URL", f"http://{HERE}:{last}/echo")
    (arrived,) = json.loads(send(port, "POST", "/echo", "hello", TRACE)[2])
    assert TRACE.items() <= json.loads(arrived).items()


# --- the server ----------------------------------------------------------------------------------


def test_echo_tells_what_arrived_and_answers_as_asked(stand: Stand) -> None:
    port = stand(echo.answer)
    status, _, body = send(port, "PATCH", "/a?status=503&size=10", "12345", {"X-A": "b"})
    seen = json.loads(body)
    assert status == 503
    assert (seen["method"], seen["path"]) == ("PATCH", "/a?status=503&size=10")
    assert (seen["body_size"], seen["headers"]["x-a"]) == (5, "b")
    assert (seen["hostname"], len(seen["padding"])) == (socket.gethostname(), 10)
    assert seen["peer"].startswith(f"{HERE}:")
    started = time.monotonic()
    assert send(port, "GET", "/?status=204&delay=0.1", "")[2] == b""
    assert time.monotonic() - started >= 0.1
    for bad in ("status=100", "status=x", "delay=61", "delay=nan", f"size={2**20 + 1}"):
        assert fetch(port, f"/?{bad}").status == 400, bad


def test_a_connection_is_kept_and_a_body_of_unknown_or_great_length_refused(stand: Stand) -> None:
    port = stand(lambda request: reply(request.peer))
    with contextlib.closing(http.client.HTTPConnection(HERE, port, timeout=5)) as connection:
        peers = []
        for method in ("GET", "POST", "GET"):
            connection.request(method, "/", "body" if method == "POST" else None)
            peers.append(connection.getresponse().read())
        assert len(set(peers)) == 1, "each time the client's end is the same"
    chunked = {"Transfer-Encoding": "chunked"}
    assert send(port, "POST", "/", "0\r\n\r\n", chunked)[:1] == (411,)
    assert send(port, "POST", "/", "", {"Content-Length": str(2**20 + 1)})[:1] == (413,)


def test_the_answer_to_head_has_no_body(stand: Stand) -> None:
    port = stand(lambda _: reply("body"))
    with socket.create_connection((HERE, port)) as raw:
        raw.sendall(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = raw.makefile("rb").read()
    assert b"Content-Length: 6\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_header_in_two_lines_becomes_one(stand: Stand) -> None:
    port = stand(lambda request: reply(request.headers["x-a"]))
    folded = {"X-A": "a\r\n b", "X-Forwarded-Client-Cert": "c\r\n d"}
    answer = fetch(port, "/", folded)
    assert json.loads(answer.body) == "a b"
    assert answer.headers["x-forwarded-client-cert-seen"] == "c d"


def test_a_fault_in_a_program_is_a_500_and_not_its_end(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    port = stand(lambda request: reply({"a": 1 / len(request.parts[0])}))
    assert [fetch(port, path).status for path in ("/a", "/", "/a")] == [200, 500, 200]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_sigterm_finishes_a_running_request_and_ends_with_0() -> None:
    program = server("echo")
    with (
        programs(program),
        contextlib.closing(http.client.HTTPConnection(HERE, program.port)) as running,
    ):
        idle = http.client.HTTPConnection(HERE, program.port)
        for connection in (running, idle):  # from now on each has its thread
            connection.request("GET", "/")
            connection.getresponse().read()
        running.request("GET", "/?delay=1")
        time.sleep(0.1)
        program.terminate()
        time.sleep(0.5)
        refused = get.once(get.Ask(f"http://{HERE}:{program.port}/"))
        answer = running.getresponse()
        assert json.loads(answer.read())["path"] == "/?delay=1"
        assert answer.getheader("connection") == "close"
        code, logged = program.end()
        idle.close()
    assert refused["error"] == "refused"
    assert code == 0
    assert [line["request"] for line in logged][-1] == "GET /?delay=1 HTTP/1.1"
    assert (logged[-1]["status"], logged[-1]["ms"] >= 1000) == (200, True)


def test_sigterm_goes_on_accepting_while_it_drains() -> None:
    program = server("echo", "--drain", "0.4")
    with programs(program):
        assert "connection" not in fetch(program.port, "/").headers
        program.terminate()
        time.sleep(0.2)
        answer = fetch(program.port, "/")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert program.end()[0] == 0


def test_a_request_longer_than_the_grace_time_does_not_hold_up_the_end() -> None:
    program = server("echo", "--grace", "0.1")
    with programs(program), socket.create_connection((HERE, program.port)) as endless:
        endless.sendall(b"GET /?delay=30 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        started = time.monotonic()
        assert program.end()[0] == 0
        assert time.monotonic() - started < 2


def test_the_client_stays_and_goes_at_once_when_asked() -> None:
    client = Program("client")
    with programs(client):
        assert client.first_line() == b"waiting\n"
        time.sleep(0.1)
        assert not client.ended()
        started = time.monotonic()
        assert client.end()[0] == 0
        assert time.monotonic() - started < 1


# --- get -----------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Listens, and never accepts."""
    with socket.create_server((HERE, 0)) as one:
        yield one


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def get_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = get.main(list(arguments))
    return code, json.loads(capsys.readouterr().out)


def test_get_prints_what_came_back(stand: Stand) -> None:
    port = stand(lambda r: reply({"a": r.headers["x-a"], "host": r.headers["host"]}, 418))
    command = [sys.executable, "-S", "-E", "-m", "lab.apps.get", f"http://{HERE}:{port}/b?c=d"]
    command += ["--header", "X-A: 1:2", "--header", "Host: reviews.bookinfo", "--json"]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, check=True)
    result = json.loads(done.stdout)
    assert set(result) == {"status", "headers", "body", "seconds", "error"}
    assert (result["status"], result["error"]) == (418, None)
    assert result["body"] == {"a": "1:2", "host": "reviews.bookinfo"}
    assert result["headers"]["content-type"] == "application/json"


def test_get_reads_64_kib(stand: Stand) -> None:
    port = stand(lambda _: Response(b"x" * (2**16 + 1)))
    result = get.once(get.Ask(f"http://{HERE}:{port}/"))
    assert (len(result["body"]), result["error"]) == (2**16, None)


def test_get_tells_refused_from_timeout(
    capsys: pytest.CaptureFixture[str], silent: socket.socket
) -> None:
    url = f"http://{HERE}:{port_of(silent)}/"
    code, slow = get_json(capsys, url, "--timeout", "0.1")
    assert (code, slow["error"], slow["status"]) == (1, "timeout", None)
    silent.close()
    code, gone = get_json(capsys, url)
    assert (code, gone["error"]) == (1, "refused")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_get_calls_an_answer_that_breaks_off_a_reset(
    silent: socket.socket, said: bytes, end: str
) -> None:
    def close() -> None:
        connection, _ = silent.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(said)
            if end == "RST":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    thread = threading.Thread(target=close)
    thread.start()
    result = get.once(get.Ask(f"http://{HERE}:{port_of(silent)}/"))
    thread.join()
    assert (result["error"], result["status"]) == ("reset", None)


def test_get_names_a_wrong_url_a_wrong_name_and_a_body_that_is_no_json(stand: Stand) -> None:
    assert "ftp" in get.once(get.Ask("ftp://a/"))["error"]
    port = stand(lambda _: Response(b"<html>"))
    result = get.once(get.Ask(f"http://{HERE}:{port}/", decode=True))
    assert (result["status"], result["body"]) == (200, "<html>")
    assert result["error"].startswith("json: ")


def test_get_says_tls_when_it_is_tls_that_fails(stand: Stand) -> None:
    port = stand(lambda _: reply({}))
    assert get.once(get.Ask(f"https://{HERE}:{port}/"))["error"].startswith("tls: ")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_get_verifies_a_server_unless_told_not_to(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", "/CN=test", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(lambda _: reply("hello"), HERE, 0)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"https://{HERE}:{server.server_address[1]}/"
    try:
        assert get.once(get.Ask(url))["error"] == "tls: CERTIFICATE_VERIFY_FAILED"
        assert get.once(get.Ask(url, insecure=True, decode=True))["body"] == "hello"
    finally:
        server.stop(drain=0, grace=1)


def test_load_counts_answers_and_failures_and_keeps_its_rate(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[float] = []

    def flaky(_: Request) -> Response:
        asked.append(time.monotonic())
        return reply({}, 200 if len(asked) % 5 else 503)

    port = stand(flaky)
    code, summary = get_json(capsys, f"http://{HERE}:{port}/", "--count", "20", "--rate", "50")
    assert code == 0
    assert (summary["sent"], summary["ok"]) == (20, 16)
    assert summary["by_status"] == {"200": 16, "503": 4}
    assert summary["errors"] == {}
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert asked[-1] - asked[0] > 0.3, "20 at 50 a second take 0.38 s"


def test_load_sends_on_time_though_answers_are_slow(silent: socket.socket) -> None:
    started = time.monotonic()
    summary = get.load(get.Ask(f"http://{HERE}:{port_of(silent)}/", timeout=0.2), 20, 100)
    assert time.monotonic() - started < 2, "one after the other they would take 4 s"
    assert (summary["errors"], summary["p50_ms"]) == ({"timeout": 20}, None)


@pytest.mark.parametrize(
    ("count", "rate"),
    [
        ("2001", "100"),
        ("130", "1"),
        ("0", "1"),
        ("1", "0"),
        ("1", "-1"),
        ("1", "nan"),
        ("1", "inf"),
    ],
)
def test_load_refuses_what_is_not_bounded(
    count: str, rate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        get.main([f"http://{HERE}:9/", "--count", count, "--rate", rate])
    assert refusal.value.code == 2
    assert "at most 2000 requests and 120 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "value"), [("--timeout", "121"), ("--timeout", "nan"), ("--header", "X-A")]
)
def test_get_refuses_a_long_wait_and_half_a_header(argument: str, value: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        get.main([f"http://{HERE}:9/", argument, value])


def test_load_sends_nothing_after_its_time(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get, "MOST_SECONDS", 0.35)
    monkeypatch.setattr(get, "_WORKERS", 1)
    summary = get.load(get.Ask(f"http://{HERE}:{port_of(silent)}/", timeout=0.2), 3, 100)
    assert summary["sent"] == 2, "at 0 and 0.2 s; a third would start at 0.4 s"


def test_the_programs_import_nothing_but_the_standard_library() -> None:
    # the collector speaks gRPC, and is started with the site packages
    names = [path.stem for path in (ROOT / "lab/apps").glob("*.py") if path.stem != COLLECTOR]
    script = f"""
import importlib, sys
for name in {names}: importlib.import_module("lab.apps." + name)
print([m for m in sys.modules if (r := m.partition(".")[0]) not in
    {{*sys.stdlib_module_names, *sys.builtin_module_names, "lab", "__main__"}}])
print([m for m in sys.modules if m.startswith("lab.") and not m.startswith("lab.apps")])
"""
    command = [sys.executable, "-S", "-E", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, check=True)
    assert done.stdout.split() == [b"[]", b"[]"]
