"""What the server of `wsss app` answers, and whom."""

import http.client
import json
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import free_port

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'gradio>=6.31,<7'")

import wsss.app
from wsss.files import write_json
from wsss.project_page import serve_projects

FORM = (
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
)
UPLOAD = {"Content-Type": "multipart/form-data; boundary=x"}
MOST = 100_000
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def port():
    """Where a page is served whose run has nothing in it."""
    classifier = SimpleNamespace(blocks=["features"], default_blocks=["features"])
    run = SimpleNamespace(
        folder=SimpleNamespace(name="run"), classes=["ball"], refined=None, background=0.4,
        orders=["masks"], made_with=SimpleNamespace(crf=None), classifier=classifier,
    )  # fmt: skip
    port = free_port()
    page = wsss.app.serve(partial(wsss.app.build, run), port, block=False, largest=MOST)
    yield port
    page.close()


@pytest.fixture
def ask(port):
    def answer(method, path, body=None, length=True, port=port, **headers):
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


def test_large_requests_are_refused(ask):
    for path, most in (("queue/join", wsss.app.LARGEST_POST), ("upload", MOST)):
        # told before anything of it is read
        more = {"Content-Length": str(most + 2**17)} | UPLOAD
        assert ask("POST", f"/gradio_api/{path}", **more)[0] == 413
    # without its length told
    form = FORM.replace(b"hello", b"x" * (MOST + 2**16))
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


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """A folder of projects, one with a run that is said to be finished, and where it is served."""
    folder = tmp_path_factory.mktemp("projects")
    project = folder / "größe 1"
    results = project / "results"
    (project / "photographs").mkdir(parents=True)
    (project / "pipeline.yaml").write_text("out: results\n")
    (project / "classes.txt").write_text("ball\n")
    (results / "pseudo_masks" / "masks" / "day 1").mkdir(parents=True)
    (results / "pseudo_masks" / "masks" / "day 1" / "a.png").write_bytes(b"mask")
    for stage in ("classify", "pseudo_masks", "segment"):
        (results / stage).mkdir(exist_ok=True)
        write_json(results / stage / "done.json", {"minutes": 1.0})
    write_json(
        results / "metrics.json",
        {"minutes_per_stage": dict.fromkeys(("classify", "pseudo_masks", "segment"), 1.0)},
    )
    (results / "report.html").write_text("<h1>a report</h1>")
    (folder / "secret.txt").write_text("secret words")
    (folder / "half" / "photographs").mkdir(parents=True)
    port = free_port()
    page = serve_projects(folder, port, block=False)
    yield port
    page.close()


def test_report_and_masks_of_a_project(projects):
    link = http.client.HTTPConnection("127.0.0.1", projects, timeout=120)
    link.request("GET", "/project/gr%C3%B6%C3%9Fe%201/run/report.html")
    answer = link.getresponse()
    assert (answer.status, answer.read()) == (200, b"<h1>a report</h1>")
    policies = answer.headers.get_all("content-security-policy")
    assert any(policy.startswith("sandbox; default-src 'none'") for policy in policies)
    link.request("GET", "/project/gr%C3%B6%C3%9Fe%201/run/masks.zip")
    answer = link.getresponse()
    assert "attachment" in answer.headers["content-disposition"]
    with zipfile.ZipFile(BytesIO(answer.read())) as archive:
        assert archive.namelist() == ["masks/day 1/a.png", "classes.txt"]
    link.close()


def test_nothing_else_of_projects_is_served(ask, projects):
    own = "gr%C3%B6%C3%9Fe%201"
    for path in (f"{own}/run/metrics.json", f"{own}/trial/report.html", "half/run/masks.zip", "half",
                 "", "../secret.txt", "..%2Fsecret.txt/run/report.html", "%2e%2e/run/report.html",
                 f"{own}%2Fresults/run/report.html", f"{own}/run/%2e%2e%2fclasses.txt"):  # fmt: skip
        status, content = ask("GET", f"/project/{path}", port=projects, Host=f"127.0.0.1:{projects}")
        assert status == 404 and b"secret" not in content.replace(b"secret.txt", b""), path
    report = f"/project/{own}/run/report.html"
    here = f"127.0.0.1:{projects}"
    assert ask("GET", report, port=projects, Host="evil.example")[0] == 421
    site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask("GET", report, port=projects, Host=here, **site)[0] == 403
