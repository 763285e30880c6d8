"""`wsss data voc` against a local file server with small archives of the real layout."""

import hashlib
import io
import re
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from wsss import cli
from wsss.data import voc2012
from wsss.data.catalog import read_catalog
from wsss.data.masks import read_mask, write_mask

TRAIN, VAL = ["2007_000001", "2007_000002"], ["2007_000003"]
SBD_TRAIN, SBD_VAL = ["2007_000001", "2008_000004"], ["2007_000003", "2008_000005"]
TRAINAUG = ["2007_000001", "2007_000002", "2008_000004", "2008_000005"]
COUNTS = {"train": 2, "val": 1, "trainaug": 4}
SHAPE = (40, 60)


def _tar(path, files: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The two archives: VOC's masks have label 3 and void, SBD's label 7."""
    folder = tmp_path_factory.mktemp("archives")
    noise = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(noise).save(jpeg, "JPEG")
    mask = np.full(SHAPE, 3, np.uint8)
    mask[:5] = 255
    write_mask(folder / "own.png", mask)
    base = "VOCdevkit/VOC2012"
    files = {f"{base}/ImageSets/Segmentation/train.txt": "\n".join(TRAIN).encode() + b"\n"}
    files[f"{base}/ImageSets/Segmentation/val.txt"] = "\n".join(VAL).encode() + b"\n"
    files["../outside.txt"] = files["VOCdevkit/VOC2012/JPEGImages/../../../../outside.jpg"] = b"no"
    for name in sorted({*TRAIN, *VAL, *SBD_TRAIN, *SBD_VAL}):
        files[f"{base}/JPEGImages/{name}.jpg"] = jpeg.getvalue()
        files[f"{base}/Annotations/{name}.xml"] = (
            b"<annotation><object><name>bird</name></object></annotation>"
        )
    for name in TRAIN + VAL:
        files[f"{base}/SegmentationClass/{name}.png"] = (folder / "own.png").read_bytes()
    (folder / "own.png").unlink()
    _tar(folder / "voc.tar", files, "w")
    mat = io.BytesIO()
    savemat(mat, {"GTcls": {"Segmentation": np.full(SHAPE, 7, np.uint8), "Boundaries": [1, 2]}})
    files = {f"benchmark_RELEASE/dataset/cls/{n}.mat": mat.getvalue() for n in SBD_TRAIN + SBD_VAL}
    files["benchmark_RELEASE/dataset/train.txt"] = "\n".join(SBD_TRAIN).encode()
    files["benchmark_RELEASE/dataset/val.txt"] = "\n".join(SBD_VAL).encode()
    _tar(folder / "sbd.tgz", files, "w:gz")
    return folder


class Server(ThreadingHTTPServer):
    """Serves a folder; `ranges`: as asked; `cut`: the connection ends after so many bytes."""

    folder, ranges, cut = None, True, None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.sent = [], 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        path = server.folder / self.path.strip("/")
        if not path.is_file():
            return self.send_error(404)
        content, start = path.read_bytes(), 0
        if wanted and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        content = content[start : server.cut]
        server.sent += len(content)
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(archives):
    server = Server()
    server.folder = archives
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(server, archives, monkeypatch):
    def archive(name):
        digest = hashlib.md5((archives / name).read_bytes()).hexdigest()
        return voc2012.Archive(name, f"http://127.0.0.1:{server.server_port}/{name}", digest)

    source = voc2012.Source(archive("voc.tar"), archive("sbd.tgz"), COUNTS)
    monkeypatch.setattr(voc2012, "official", lambda: source)
    return source


def _complete(root) -> None:
    assert (root / "ImageSets/Segmentation/trainaug.txt").read_text().split() == TRAINAUG
    records = read_catalog("voc", root, "trainaug").records
    assert [record.id for record in records] == TRAINAUG
    assert all(record.tags == (2,) for record in records)
    for record in records:
        values = set(np.unique(read_mask(record.mask, 21)))
        assert values == ({3, 255} if record.id in TRAIN else {7})
    val = read_catalog("voc", root, "val").records[0]
    assert set(np.unique(read_mask(val.mask, 21))) == {3, 255}
    assert not [path for path in root.rglob("*") if path.name.endswith(".part")]
    assert not list(root.parent.rglob("outside*"))


def _fails(capsys, *words: str, **more) -> str:
    assert cli.main(["data", "voc", *words]) == 2
    said = capsys.readouterr().err
    assert "error: " in said and "Traceback" not in said
    return said.rpartition("error: ")[2]


def test_official_archives_and_numbers():
    source = voc2012.official()
    assert source.voc.filename == "VOCtrainval_11-May-2012.tar" and len(source.voc.md5) == 32
    assert source.sbd.filename == "benchmark.tgz" and len(source.sbd.md5) == 32
    assert source.counts == {"train": 1464, "val": 1449, "trainaug": 10582}


def test_all_and_again(source, server, tmp_path, capsys):
    root = tmp_path / "VOC 2012"
    assert cli.main(["data", "voc", str(root)]) == 0
    _complete(root)
    assert "trainaug 4" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    asked = list(server.asked)
    assert cli.main(["data", "voc", str(root)]) == 0
    assert server.asked == asked
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_download_goes_on(source, server, archives, tmp_path, capsys, ranges):
    server.ranges, server.cut = ranges, 5000
    said = _fails(capsys, str(tmp_path / "voc"))
    assert "voc.tar" in said and "broke off" in said and "again" in said
    assert (tmp_path / "voc/archives/voc.tar.part").stat().st_size == 5000
    assert not (tmp_path / "voc/archives/voc.tar").exists()
    server.cut, server.sent = None, 0
    assert cli.main(["data", "voc", str(tmp_path / "voc")]) == 0
    _complete(tmp_path / "voc")
    assert server.asked[1] == ("/voc.tar", "bytes=5000-")
    size = sum((archives / name).stat().st_size for name in ("voc.tar", "sbd.tgz"))
    assert server.sent == size - (5000 if ranges else 0)


def test_part_that_was_complete(source, archives, tmp_path):
    (tmp_path / "voc/archives").mkdir(parents=True)
    (tmp_path / "voc/archives/voc.tar.part").write_bytes((archives / "voc.tar").read_bytes())
    assert cli.main(["data", "voc", str(tmp_path / "voc")]) == 0
    _complete(tmp_path / "voc")


def test_wrong_checksum(source, monkeypatch, tmp_path, capsys):
    wrong = replace(source, sbd=replace(source.sbd, md5="0" * 32))
    monkeypatch.setattr(voc2012, "official", lambda: wrong)
    said = _fails(capsys, str(tmp_path / "voc"))
    assert "sbd.tgz" in said and "0" * 32 in said
    assert [p.name for p in (tmp_path / "voc/archives").iterdir()] == ["voc.tar"]
    monkeypatch.setattr(voc2012, "official", lambda: source)
    assert cli.main(["data", "voc", str(tmp_path / "voc")]) == 0
    _complete(tmp_path / "voc")


def test_no_such_file_on_server(source, monkeypatch, tmp_path, capsys):
    gone = replace(source, voc=replace(source.voc, url=source.voc.url + "x"))
    monkeypatch.setattr(voc2012, "official", lambda: gone)
    said = _fails(capsys, str(tmp_path / "voc"))
    assert "404" in said and source.voc.url + "x" in said


def test_archives_on_disk(source, server, archives, tmp_path, capsys):
    assert cli.main(["data", "voc", str(tmp_path / "voc"), "--from", str(archives)]) == 0
    _complete(tmp_path / "voc")
    assert not server.asked and not (tmp_path / "voc/archives").exists()
    assert "can be removed" not in capsys.readouterr().out


def test_archives_on_disk_missing_or_truncated(source, server, archives, tmp_path, capsys):
    disk, root = tmp_path / "disk", str(tmp_path / "voc")
    assert f"{disk} is no folder" in _fails(capsys, root, "--from", str(disk))
    disk.mkdir()
    (disk / "voc.tar").write_bytes((archives / "voc.tar").read_bytes())
    said = _fails(capsys, root, "--from", str(disk))
    assert "sbd.tgz" in said and source.sbd.url in said
    (disk / "sbd.tgz").write_bytes((archives / "sbd.tgz").read_bytes()[:-200])
    said = _fails(capsys, root, "--from", str(disk))
    assert str(disk / "sbd.tgz") in said and source.sbd.md5 in said
    assert (disk / "sbd.tgz").is_file() and not server.asked


@pytest.mark.parametrize(("kind", "size"), [("voc", 3000), ("sbd", 300), ("sbd", 400)])
def test_truncated_archive_with_its_own_checksum(
    source, archives, monkeypatch, tmp_path, capsys, kind, size
):
    for name in ("sbd.tgz", "voc.tar"):
        (tmp_path / name).write_bytes((archives / name).read_bytes())
    item = getattr(source, kind)
    content = (archives / item.filename).read_bytes()[:size]
    (tmp_path / item.filename).write_bytes(content)
    cut = replace(source, **{kind: replace(item, md5=hashlib.md5(content).hexdigest())})
    monkeypatch.setattr(voc2012, "official", lambda: cut)
    said = _fails(capsys, str(tmp_path / "voc"), "--from", str(tmp_path))
    assert f"{tmp_path / item.filename} cannot be unpacked" in said


def test_root_that_cannot_be_written(source, archives, tmp_path, capsys):
    (tmp_path / "voc").write_text("a file")
    said = _fails(capsys, str(tmp_path / "voc"), "--from", str(archives))
    assert f"{tmp_path / 'voc'} cannot be written" in said


@pytest.mark.parametrize("split", COUNTS)
def test_other_numbers_than_the_official(source, archives, monkeypatch, tmp_path, capsys, split):
    monkeypatch.setattr(
        voc2012, "official", lambda: replace(source, counts=COUNTS | {split: COUNTS[split] + 1})
    )
    said = _fails(capsys, str(tmp_path / "voc"), "--from", str(archives))
    assert split in said and f"official list has {COUNTS[split] + 1}" in said
    assert not (tmp_path / "voc/ImageSets/Segmentation/trainaug.txt").exists()


def test_a_list_of_another_form_is_told(source, archives, tmp_path, capsys):
    root, words = tmp_path / "voc", [str(tmp_path / "voc"), "--from", str(archives)]
    assert cli.main(["data", "voc", *words]) == 0
    listing = root / "ImageSets/Segmentation/trainaug.txt"
    lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in listing.read_text().split()]
    listing.write_text("\n".join(lines) + "\n")
    assert f"remove {root / 'ImageSets'} and run the same command again" in _fails(capsys, *words)


def test_interrupted_conversion_goes_on(source, archives, monkeypatch, tmp_path):
    root, words = tmp_path / "voc", ["data", "voc", str(tmp_path / "voc"), "--from", str(archives)]
    done = []

    def stop(*args):
        if done:
            raise KeyboardInterrupt
        done.append(write_mask(*args))

    monkeypatch.setattr(voc2012, "write_mask", stop)
    assert cli.main(words) == 130
    made = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
    assert len(list((root / "SegmentationClassAug").iterdir())) == 1
    monkeypatch.setattr(voc2012, "write_mask", write_mask)
    assert cli.main(words) == 0
    _complete(root)
    assert made == {p: p.stat().st_mtime_ns for p in made}


def test_file_lost_later(source, archives, tmp_path, capsys):
    root, words = tmp_path / "voc", [str(tmp_path / "voc"), "--from", str(archives)]
    assert cli.main(["data", "voc", *words]) == 0
    lost = root / "SegmentationClassAug" / "2008_000004.png"
    lost.unlink()
    assert "2008_000004.png" in _fails(capsys, *words)
    for path in (root / "ImageSets/Segmentation").iterdir():
        path.unlink()
    assert cli.main(["data", "voc", *words]) == 0
    _complete(root)
