"""The service over HTTP: answers, refusals of every kind, and what happens when it is busy or ends."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples.serving import Brightness, encoded, picture, serve, served

httpx2 = pytest.importorskip("httpx2", reason="needs the extra 'dev'")

PNG = {"Content-Type": "image/png"}
IMAGE = encoded(picture())


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def service():
    with served(Brightness(), max_mb=0.1, max_megapixels=0.1, max_wait_ms=0) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        yield client


def check_error(response, status: int, says: str) -> None:
    assert response.status_code == status, response.text
    answer = response.json()
    assert set(answer) == {"error", "expected"}
    assert says in answer["error"]
    assert answer["expected"]
    assert "Traceback" not in response.text


def test_an_image_is_answered(client):
    body = client.post("/classify", content=IMAGE, headers=PNG).json()
    form = client.post("/classify", files={"file": ("a.png", IMAGE, "image/png")}).json()
    unnamed = client.post("/classify", files={"whatever": ("a", IMAGE, "application/octet-stream")}).json()
    untyped = client.post("/classify", content=IMAGE).json()
    assert body["classes"] == form["classes"] == unnamed["classes"] == untyped["classes"]
    assert {entry["class"] for entry in body["classes"]} == set(Brightness.classes)
    values = [entry["probability"] for entry in body["classes"]]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)
    assert body["image"] == {"format": "PNG", "width": 20, "height": 12}
    assert body["batch"] == 1
    spent = body["milliseconds"]
    assert set(spent) == {"uploading", "decoding", "waiting", "running", "total"}
    assert spent["total"] >= sum(value for name, value in spent.items() if name != "total") - 0.01


@pytest.mark.parametrize(("top", "number"), [(1, 1), (2, 2), (1000, 2)])
def test_top(client, top, number):
    response = client.post("/classify", params={"top": top}, content=IMAGE, headers=PNG)
    assert len(response.json()["classes"]) == number


@pytest.mark.parametrize("top", ["0", "-1", "x", "", "1.5", "9" * 5000])
def test_bad_parameters(client, top):
    check_error(client.post("/classify", params={"top": top}, content=IMAGE, headers=PNG), 422, "top=")


@pytest.mark.parametrize(
    ("request_of", "status", "says"),
    [
        ({"content": b"", "headers": PNG}, 400, "empty"),
        ({"content": b""}, 400, "empty"),
        ({"files": {"file": ("a.png", b"", "image/png")}}, 400, "empty"),
        ({"content": b"words", "headers": PNG}, 400, "no image"),
        ({"content": IMAGE[:300], "headers": PNG}, 400, "damaged or cut short"),
        ({"files": {"file": ("a.png", IMAGE[:300], "image/png")}}, 400, "damaged or cut short"),
        ({"data": {"file": "words"}, "files": {}}, 415, "x-www-form-urlencoded"),
        ({"files": {"note": (None, "words")}}, 400, "no file in the form"),
        ({"files": [("file", ("a.png", IMAGE)), ("file", ("b.png", IMAGE))]}, 400, "Too many files"),
        ({"content": IMAGE, "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": IMAGE, "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "form"),
        ({"content": IMAGE, "headers": {"Content-Type": "text/plain"}}, 415, "text/plain"),
        ({"json": {"image": "data"}}, 415, "application/json"),
        ({"files": {"file": ("a.txt", b"words", "text/plain; charset=utf-8")}}, 415, "text/plain"),
        ({"files": {"file": ("a.pdf", b"%PDF", "application/pdf")}}, 415, "application/pdf"),
        ({"content": b"x" * 100_001, "headers": PNG}, 413, "too large"),
        ({"files": {"file": ("a.png", b"x" * 100_001, "image/png")}}, 413, "too large"),
        ({"content": encoded(picture(400, 251)), "headers": PNG}, 413, "400 x 251 pixels"),
    ],
)
def test_bad_input(client, request_of, status, says):
    check_error(client.post("/classify", **request_of), status, says)


def test_other_addresses_and_methods(client):
    check_error(client.get("/nothing"), 404, "GET /nothing")
    check_error(client.get("/page/../app.py"), 404, "Not Found")
    check_error(client.get("/page/%2e%2e/app.py"), 404, "Not Found")
    refused = client.get("/classify")
    check_error(refused, 405, "Method Not Allowed")
    assert refused.headers["Allow"] == "POST"


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head(client):
    """Which takes Linux 40 ms, every time; a busy machine takes as long now and then."""

    def usual() -> float:
        times = []
        for _ in range(15):
            started = time.perf_counter()
            client.get("/health")
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    assert any(usual() < 0.035 for _ in range(10))


def test_bytes_are_counted_while_they_arrive(service):
    """No length is said, and the upload would never end."""
    sent = 0
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.setblocking(False)
        answer = b""
        while b"}" not in answer:
            assert sent < 5_000_000
            try:
                connection.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
                sent += 0x1000
            except BlockingIOError:
                pytest.fail("the service stopped reading before it answered")
            time.sleep(0.01)
            try:
                answer += connection.recv(10_000)
            except BlockingIOError:
                continue
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_length_that_is_said_is_believed_before_anything_is_sent(service):
    with socket.create_connection(("127.0.0.1", service.port), 20) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 413")


@given(st.binary(max_size=300), st.sampled_from(["image/png", "image/jpeg", "multipart/form-data; boundary=a", ""]))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused_in_words(client, data, kind):
    response = client.post("/classify", content=data, headers={"Content-Type": kind} if kind else {})
    check_error(response, 400, "")


@given(st.integers(1, len(IMAGE) - 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_truncation_is_refused_in_words(client, length, form):
    how = {"files": {"file": ("a.png", IMAGE[:length])}} if form else {"content": IMAGE[:length], "headers": PNG}
    check_error(client.post("/classify", **how), 400, "")


def test_what_it_tells_of_itself(client):
    assert client.get("/health").json() == {"ready": True, "model": "brightness.onnx", "queue": 0}
    model = client.get("/model").json()
    assert model["classes"] == list(Brightness.classes)
    assert model["preprocessing"]["image_size"] == 8
    assert model["description"] == "a test"
    assert model["limits"]["max_mb"] == 0.1
    assert {"onnxruntime", "pillow"} < set(model["versions"])
    client.post("/classify", content=IMAGE, headers=PNG)
    metrics = dict(line.split(" ") for line in client.get("/metrics").text.splitlines())
    assert int(metrics['dynaconv_requests_total{status="200"}']) > 0
    assert int(metrics["dynaconv_images_total"]) >= int(metrics["dynaconv_batches_total"]) > 0
    assert "/classify" in client.get("/openapi.json").json()["paths"]


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    for name in ("page.css", "page.js"):
        assert f"/page/{name}" in page.text
        text = client.get(f"/page/{name}").text
        assert "http:" not in text
        assert "https:" not in text
    assert "innerHTML" not in client.get("/page/page.js").text


@pytest.fixture
def network():
    network = Brightness()
    yield network
    network.open.set()


def post(url: str, **how):
    return httpx2.post(f"{url}/classify", content=IMAGE, headers=PNG, timeout=30, **how)


def test_requests_at_once_ride_together(network):
    with served(network, max_batch=4, max_wait_ms=25_000) as service, ThreadPoolExecutor(4) as pool:
        answers = [future.result().json() for future in [pool.submit(post, service.url) for _ in range(4)]]
    assert [answer["batch"] for answer in answers] == [4] * 4
    assert network.batches == [4]


def test_a_full_queue_answers_503_and_the_others_are_served(network):
    network.open.clear()
    with served(network, max_batch=1, max_wait_ms=0, max_queue=2) as service, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(post, service.url)]
        until(lambda: network.batches)
        futures += [pool.submit(post, service.url) for _ in range(2)]
        until(lambda: httpx2.get(f"{service.url}/health").json()["queue"] == 2)
        refused = post(service.url)
        check_error(refused, 503, "queue is full")
        assert int(refused.headers["Retry-After"]) > 0
        network.open.set()
        assert [future.result().status_code for future in futures] == [200] * 3
        assert post(service.url).status_code == 200


def test_uploads_that_do_not_come_are_bounded_in_number_and_time(network):
    head = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome"
    with served(network, max_queue=1, upload_seconds=3) as service:
        with socket.create_connection(("127.0.0.1", service.port), 20) as slow:
            slow.sendall(head)
            until(lambda: post(service.url).status_code == 503)
            assert slow.recv(10_000).startswith(b"HTTP/1.1 408")
        assert post(service.url).status_code == 200
        with socket.create_connection(("127.0.0.1", service.port), 20) as broken:
            broken.sendall(head)
        until(lambda: 'status="499"} 1' in httpx2.get(f"{service.url}/metrics").text)
        assert post(service.url).status_code == 200


def test_who_hangs_up_leaves_the_queue(network):
    network.open.clear()
    with served(network, max_wait_ms=0) as service, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, service.url)
        until(lambda: network.batches)
        head = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(IMAGE)
        with socket.create_connection(("127.0.0.1", service.port), 20) as impatient:
            impatient.sendall(head + IMAGE)
            until(lambda: httpx2.get(f"{service.url}/health").json()["queue"] == 1)
        until(lambda: httpx2.get(f"{service.url}/health").json()["queue"] == 0)
        network.open.set()
        assert first.result().status_code == 200
        assert 'status="499"} 1' in httpx2.get(f"{service.url}/metrics").text
    assert network.batches == [1]


def test_a_batch_that_fails_is_told_and_the_service_lives_on(network):
    with served(network, max_wait_ms=0) as service:
        network.fails = True
        response = post(service.url)
        check_error(response, 500, "the network failed")
        assert "out of light" not in response.text
        network.fails = False
        assert post(service.url).status_code == 200


def test_a_fault_of_its_own_is_told_without_its_insides(network, monkeypatch):
    def fault(*arguments):
        raise MemoryError("a secret")

    with served(network, max_wait_ms=0) as service:
        with monkeypatch.context() as patch:
            patch.setattr(serve.service, "prepare", fault)
            response = post(service.url)
        check_error(response, 500, "the service has a fault")
        assert "secret" not in response.text
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert 'status="500"} 1\n' in httpx2.get(f"{service.url}/metrics").text
        assert post(service.url).status_code == 200


def test_requests_under_way_are_answered_at_the_end(network):
    network.open.clear()
    with ThreadPoolExecutor(3) as pool:
        with served(network, max_batch=1, max_wait_ms=0) as service:
            futures = [pool.submit(post, service.url) for _ in range(3)]
            until(lambda: network.batches and httpx2.get(f"{service.url}/health").json()["queue"] == 2)
            service.server.should_exit = True
            threading.Timer(0.3, network.open.set).start()
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert json.loads(answers[0].text)["batch"] == 1
