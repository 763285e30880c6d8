"""Projects of `wsss app` without the page: what is taken of uploads, and what is said of a run."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from socket import gethostname

import pytest
from own_folder import make_folder

import wsss.projects
from wsss.errors import UserError
from wsss.files import write_json
from wsss.locks import locked
from wsss.projects import Bar, Choice, Projects
from wsss.run_folder import NEEDED

NANO = Choice("tags.csv", "glnet_nano", False)


@pytest.fixture
def projects(tmp_path) -> Projects:
    return Projects(tmp_path / "projects")


@pytest.fixture
def project(projects):
    return projects.make("bees 1")


@pytest.fixture
def upload(tmp_path):
    """An uploaded file, and the name that the user knows it by."""

    def make(name: str, content: bytes = b"x") -> tuple[Path, str]:
        place = tmp_path / "uploads"
        place.mkdir(exist_ok=True)
        path = place / f"{len([*place.iterdir()])}.part"
        path.write_bytes(content)
        return path, name

    return make


def test_names_of_projects(projects, tmp_path):
    assert projects.names() == []
    for name in ("größe 1", "a.b", "2026-11-30"):
        projects.make(name)
        assert projects[name].uploaded.is_dir()
    assert set(projects.names()) == {"größe 1", "a.b", "2026-11-30"}
    for name in ("", ".", "..", "../x", "a/b", "/tmp", ".a", "a.", "a ", "a\n", "a\0", "-a", "x" * 61,
                 "a\\b", "<b>", None, 3):  # fmt: skip
        with pytest.raises(UserError, match="a project's name begins"):
            projects.make(name)
        with pytest.raises(UserError, match="a project's name begins"):
            projects[name]
    with pytest.raises(UserError, match="is there already"):
        projects.make("a.b")
    with pytest.raises(UserError, match="no project"):
        projects["other"]


def test_uploads_are_plain_files(project, upload):
    assert project.tables() == [""]
    told = project.add([upload("a (1).JPG"), upload("b$.heic"), upload("tags.csv"), upload("x.exe")])
    assert (
        told
        == "taken: 2 photographs, 1 files of tags; passed over: x.exe (neither photographs nor tags)"
    )
    files = {path.relative_to(project.path).as_posix() for path in project.path.rglob("*.*")}
    assert files == {"photographs/a (1).JPG", "photographs/b$.heic", "tags/tags.csv"}
    project.add([upload("classes.txt"), upload("val.txt"), upload("tags.csv", b"newer")])
    assert project.tables() == ["tags.csv"] and project.choice(False).table == "tags.csv"
    assert (project.tags / "tags.csv").read_bytes() == b"newer"
    project.add([upload("1.xml"), upload("2.xml")])
    assert project.tables() == [".", "tags.csv"]
    with pytest.raises(UserError, match=r"no table '\.\./\.\./secret\.csv'"):
        project.verdict(Choice("../../secret.csv", "", False))


@pytest.mark.parametrize("name", ["../../evil.jpg", "/etc/evil.jpg", "C:\\evil.jpg", "a/b/evil.jpg"])
def test_names_that_lead_elsewhere_lead_here(project, upload, name):
    project.add([upload(name)])
    assert [path.name for path in project.uploaded.iterdir()] == ["evil.jpg"]


@pytest.mark.parametrize(
    "name", ["", "..", "a/..", "a\0.jpg", "a\n.jpg", "\udc80.jpg", "ä" * 130 + ".jpg"]
)
def test_names_that_no_file_has_are_refused(project, upload, name):
    with pytest.raises(UserError, match="cannot be called"):
        project.add([upload("good.jpg"), upload(name)])
    assert not [*project.uploaded.iterdir()]


def test_uploads_are_bounded(project, upload, monkeypatch):
    monkeypatch.setattr(wsss.projects, "LARGEST_PROJECT", 10)
    project.add([upload("a.jpg", b"x" * 6)])
    with pytest.raises(UserError, match=r"bees 1 would have 2 files"):
        project.add([upload("b.jpg", b"x" * 6)])
    monkeypatch.setattr(wsss.projects, "LARGEST_PROJECT", 1000)
    monkeypatch.setattr(wsss.projects, "MEMBERS", 3)
    with pytest.raises(UserError, match="would have 4 files"):
        project.add([upload(f"{number}.jpg") for number in range(3)])
    assert [path.name for path in project.uploaded.iterdir()] == ["a.jpg"]


def _zip(path: Path, *names: str, size: int = 1) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"x" * size)
    return path


def test_zip_files_are_unpacked(project, upload, tmp_path, monkeypatch):
    packed = _zip(
        tmp_path / "a", "photos/day 1/a.jpg", "photos/b.png", "photos/run.exe", "__MACOSX/b.png"
    )
    project.add([(packed, "photos.zip")])
    assert project.photographs == project.uploaded / "photos"
    assert project.contents() == "2 photographs" and not [*project.path.rglob("*.exe")]
    for names, what in ((["../evil.jpg"], "leads out"), (["/tmp/evil.jpg"], "leads out")):
        with pytest.raises(UserError, match=rf"^mine\.zip has the member .*{what}"):
            project.add([(_zip(tmp_path / "b", "good.jpg", *names), "mine.zip")])
    with pytest.raises(UserError, match=r"^mine\.zip cannot be unpacked"):
        project.add([upload("mine.zip", b"no archive")])
    monkeypatch.setattr("wsss.exchange.archive.UNPACKED", 1000)
    with pytest.raises(UserError, match="unpacked it is above"):
        project.add([(_zip(tmp_path / "c", "a.jpg", size=2000), "bomb.zip")])
    monkeypatch.setattr("wsss.exchange.archive.MEMBERS", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        project.add([(_zip(tmp_path / "d", "a.jpg", "b.jpg", "c.jpg"), "many.zip")])
    # nothing of what was refused is left
    assert project.contents() == "2 photographs"
    assert {path.name for path in project.path.iterdir()} == {"photographs"}


def _with_photographs(project, tmp_path) -> None:
    folder = make_folder(tmp_path / "photos")
    table = folder / "tags.csv"
    files = [(path, path.name) for path in sorted(folder.rglob("*.jpg"))]
    table.write_text(table.read_text(encoding="utf-8").replace("größe 1/", ""), encoding="utf-8")
    project.add([*files, (table, "tags.csv")])


def test_settings_are_those_of_init_and_go_with_what_was_uploaded(project, upload, tmp_path):
    _with_photographs(project, tmp_path)
    assert any("20 images, 20 tagged" in line for line in project.verdict(NANO))
    assert project.status(False).state == "new" and not project.is_prepared(NANO)
    lines = project.prepare(NANO)
    assert "  bild 00.jpg: big dog" in lines and not any(line.startswith("next:") for line in lines)
    assert project.is_prepared(NANO) and not project.is_prepared(NANO._replace(backbone=""))
    assert project.status(False).state == "ready" and project.choice(False) == NANO
    assert project.in_a_terminal(NANO)[2] == f"wsss run -c '{project.path / 'pipeline.yaml'}'"
    # other photographs: the settings are made anew, the earlier ones stay
    project.add([upload("tags.csv", (project.tags / "tags.csv").read_bytes().replace(b"cat", b"bee"))])
    assert not project.is_prepared(NANO)
    assert any("settings.old1" in line for line in project.prepare(NANO))
    assert "bee" in (project.path / "classes.txt").read_text()
    assert "cat" in (project.path / "settings.old1" / "classes.txt").read_text()
    # of a run they stay
    (project.path / "results" / "classify").mkdir(parents=True)
    assert project.status(False).state == "stopped"
    with pytest.raises(UserError, match="make another project"):
        project.add([upload("c.jpg")])
    with pytest.raises(UserError, match=r"there already and differs.*make another project"):
        project.prepare(NANO._replace(backbone="glnet_tiny"))
    with pytest.raises(UserError, match="--out=/tmp"):
        project.prepare(NANO._replace(backbone="--out=/tmp", trial=True))


def test_a_run_that_is_at_work_is_told(project, upload):
    (project.path / "pipeline.yaml").write_text("refine: refine.yaml\n")
    with locked(project.path / "results", "wsss run"):
        wsss.locks._held.clear()  # as another process sees it
        for work in (lambda: project.start(NANO), lambda: project.add([upload("a.jpg")])):
            with pytest.raises(UserError, match=r"results is in use by wsss run \(process"):
                work()
        status = project.status(False)
        assert status.state == "working" and "in use by wsss run" in status.words
    assert project.status(False).state == "ready"


LOG = """
2026-11-30 15:16 $ wsss run -c old
error: of an earlier time

2026-11-30 15:17 $ wsss run -c x
classify: starts
train classifier: 0 of 40
train classifier: 10 of 40 (25 %) in 00:05, 00:15 left, 2.00 batches/s, train_loss=0.5
train classifier: 20 of 40 (50 %) in 00:10, 00:10 left, 2.00 batches/s, train_loss=0.4
"""


def test_status_is_read_from_the_folder(project):
    results, log = project.path / "results", project.path / "run.log"
    (project.path / "pipeline.yaml").write_text("out: results\n")
    log.write_text(LOG)
    (results / "classify").mkdir(parents=True)
    write_json(results / "classify" / "done.json", {"minutes": 1.0})
    said, bar = wsss.projects._tail(log)
    assert bar == Bar("train classifier", 0.5, "00:10 left, 2.00 batches/s, train_loss=0.4")
    assert [line.partition(",")[0] for line in said] == [
        "classify: starts",
        "train classifier: 20 of 40 (50 %) in 00:10",
    ]
    status = project.status(False)
    assert status.state == "stopped" and status.bar is None
    assert status.stages == [("classifier", True), ("pseudo-masks", False), ("segmenter", False)]
    log.write_text(LOG + "error: no room\n")
    assert project.status(False)[:2] == ("failed", "no room")
    for name in NEEDED:
        (results / name).mkdir(exist_ok=True)
        write_json(results / name / "done.json", {"minutes": 1.0})
    write_json(results / "metrics.json", {"minutes_per_stage": dict.fromkeys(NEEDED, 1.0)})
    log.write_text(LOG)
    assert project.status(False).state == "finished"


HOLDS = """
import sys, time
from wsss.locks import locked
with locked(sys.argv[1], "wsss run"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_run_that_an_earlier_page_has_left_can_be_stopped(project, tmp_path):
    results = project.path / "results"
    (project.path / "pipeline.yaml").write_text("out: results\n")
    words = [sys.executable, "-c", HOLDS, str(results)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert f"process {other.pid}" in project.status(False).words
        project.stop(False)
        assert other.wait(60) == -signal.SIGTERM
    # its note names a number that any program may have by now: nothing is ended by that
    (results / ".wsss.holder").write_text(json.dumps({"process": os.getpid(), "host": gethostname()}))
    project.stop(False)
    assert project.status(False).state == "ready"


@pytest.mark.parametrize("way", ["{aside}", "{uploads}/../secret.csv", "{uploads}/link.csv"])
def test_only_what_was_uploaded_is_taken(projects, tmp_path, way):
    page_of = pytest.importorskip("wsss.project_page").ProjectPage
    aside, uploads = tmp_path / "secret.csv", tmp_path / "uploads"
    uploads.mkdir()
    aside.write_text("image,tags\n")
    (uploads / "link.csv").symlink_to(aside)
    page = page_of(projects, uploads)
    projects.make("bees")
    file = {"path": way.format(aside=aside, uploads=uploads), "orig_name": "tags.csv"}
    said = page.add("bees", False, [file])[1]
    assert "only files that were uploaded can be added" in said
    assert aside.is_file() and not list((projects.folder / "bees" / "tags").glob("*"))
