"""What the server of `wsss app` answers, and whom."""

import http.client
import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'gradio>=6.31,<7'")

import wsss.app

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
)
UPLOAD = {"Content-Type": "multipart/form-data; boundary=x"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def port():
    """Where a page is served whose run has nothing in it."""
    classifier = SimpleNamespace(blocks=["features"], default_blocks=["features"])
    run = SimpleNamespace(
        folder=SimpleNamespace(name="run"), classes=["ball"], refined=None, background=0.4,
        orders=["masks"], made_with=SimpleNamespace(crf=None), classifier=classifier,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = wsss.app.serve(run, port, block=False)
    yield port
    page.close()


@pytest.fixture
def ask(port):
    def answer(method, path, body=None, length=True, **headers):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        link.putrequest(method, path, skip_host=True)
        headers = {"Host": f"127.0.0.1:{port}"} | headers
        if body is not None and length:
            headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            link.putheader(name, value)
        link.endheaders(body)
        answer = link.getresponse()
        found = answer.status, answer.read()
        link.close()
        return found

    return answer


def test_names_of_this_machine_alone(ask, port):
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert ask("GET", "/", Host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", "",
                 f"127.0.0.1:{port}.evil.example", f"localhost.evil.example:{port}"):  # fmt: skip
        assert ask("GET", "/", Host=host)[0] == 421
        assert ask("POST", "/gradio_api/upload", FORM, Host=host, **UPLOAD)[0] == 421


def test_posts_of_other_sites_are_refused(ask, port):
    event = json.dumps({"data": [], "fn_index": 0, "session_hash": "a"}).encode()
    own = f"http://localhost:{port}"
    assert ask("POST", "/gradio_api/upload", FORM, **UPLOAD)[0] == 200
    assert ask("POST", "/gradio_api/upload", FORM, Origin=own, **UPLOAD)[0] == 200
    for other in ("http://evil.example", "null", f"https://localhost:{port}", f"{own}.evil.example",
                  f"http://localhost:{port + 1}"):  # fmt: skip
        assert ask("POST", "/gradio_api/upload", FORM, Origin=other, **UPLOAD)[0] == 403
        assert ask("POST", "/gradio_api/queue/join", event, Origin=other, **JSON)[0] == 403
        assert ask("GET", "/config", Origin=other)[0] == 403
    site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask("POST", "/gradio_api/upload", FORM, **UPLOAD, **site)[0] == 403
    assert ask("GET", "/config", **site)[0] == 403
    # a link to the page itself
    assert ask("GET", "/", **site | {"Sec-Fetch-Mode": "navigate"})[0] == 200


def test_only_files_of_the_page_are_served(ask, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret words")
    here = Path(__file__).resolve()
    for path in (
        secret,
        here,
        "/etc/passwd",
        f"../../../../{secret}",
        here.parent.parent / "README.md",
    ):
        status, content = ask("GET", f"/gradio_api/file={path}")
        assert status in (403, 404) and b"secret words" not in content and b"root:" not in content
    _, content = ask("POST", "/gradio_api/upload", FORM, **UPLOAD)
    (uploaded,) = json.loads(content)
    assert ask("GET", f"/gradio_api/file={uploaded}") == (200, b"hello")
    assert ask("GET", "/gradio_api/proxy=http://evil.example/")[0] in (400, 403, 404)


def test_large_requests_are_refused(ask, monkeypatch):
    for path, most in (("queue/join", wsss.app.LARGEST_POST), ("upload", wsss.app.LARGEST_FILE)):
        # told before anything of it is read
        more = {"Content-Length": str(most + 2**17)} | UPLOAD
        assert ask("POST", f"/gradio_api/{path}", **more)[0] == 413
    # without its length told
    monkeypatch.setattr(wsss.app, "LARGEST_FILE", 1000 - 2**16)
    form = FORM.replace(b"hello", b"x" * 4000)
    parts = b"%x\r\n%s\r\n0\r\n\r\n" % (len(form), form)
    chunked = {"Transfer-Encoding": "chunked"} | UPLOAD
    assert ask("POST", "/gradio_api/upload", parts, length=False, **chunked)[0] == 413
    assert ask("POST", "/gradio_api/upload", FORM, **UPLOAD)[0] == 200


def test_what_the_browser_is_told(port):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    link.request("GET", "/")
    answer = link.getresponse()
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    link.close()
