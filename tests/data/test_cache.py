"""What was found in files, kept from one process to the next."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from own_folder import make_folder

from wsss.data import cache, images, masks
from wsss.data.cache import cache_folder, remembered
from wsss.data.catalog import largest_image, read_catalog
from wsss.data.datasets import SameShapeBatches
from wsss.data.layouts import voc
from wsss.data.masks import write_mask
from wsss.data.names import Files
from wsss.errors import UserError
from wsss.stages import recipe
from wsss.stages.recipe import stamp_catalog


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED", 0)


@pytest.fixture
def files(tmp_path):
    """Some files with a number each, two in one folder and one in another."""
    paths = [tmp_path / "a" / "1", tmp_path / "a" / "2", tmp_path / "b" / "1"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))
    return paths


class Numbers:
    """Reads the numbers, and which files were read."""

    def __init__(self):
        self.read = []

    def __call__(self, paths):
        for path in paths:
            self.read.append(path)
            yield int(path.read_text())


def test_only_what_is_not_known_is_read(files):
    find = Numbers()
    assert remembered("numbers", files[:2], find) == [0, 1]
    assert remembered("numbers", [files[2], files[0], files[1]], find) == [2, 0, 1]
    assert find.read == files
    assert remembered("others", files[:1], find) == [0] and find.read == [*files, files[0]]
    here = [os.path.relpath(path) for path in files]
    assert remembered("numbers", list(map(Path, here)), find) == [0, 1, 2] and len(find.read) == 4


def test_a_changed_file_is_read_again(files):
    find = Numbers()
    remembered("numbers", files, find)
    status = files[1].stat()
    files[1].write_text("7")
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same size and date
    assert remembered("numbers", files, find) == [0, 7, 2] and find.read[3:] == [files[1]]
    files[1].unlink()
    with pytest.raises(FileNotFoundError):
        remembered("numbers", files, find)


def test_a_file_that_was_just_written_is_not_kept(files, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED", 60)
    find = Numbers()
    for _ in range(2):
        assert remembered("numbers", files, find) == [0, 1, 2]
    assert len(find.read) == 6 and not cache_folder().exists()


def test_what_was_found_before_a_fault_is_kept(files):
    files[1].write_text("no number")
    find = Numbers()
    with pytest.raises(ValueError):
        remembered("numbers", files, find)
    files[1].write_text("5")
    assert remembered("numbers", files, find) == [0, 5, 2]
    assert find.read == [files[0], files[1], files[1], files[2]]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\n{}", b"abc\n[]", b"short"])
def test_a_damaged_or_foreign_cache_is_made_anew(text, files):
    remembered("numbers", files, Numbers())
    for path in cache_folder().iterdir():
        path.write_bytes(text)
    find = Numbers()
    assert remembered("numbers", files, find) == [0, 1, 2] and find.read == files
    assert remembered("numbers", files, find) == [0, 1, 2] and len(find.read) == 3


def test_a_part_that_was_lost_is_noticed(files):
    """Text that is JSON still, but not what was written."""
    remembered("numbers", files, Numbers())
    for path in cache_folder().iterdir():
        digest, text = path.read_text().split("\n")
        entries = {name: [*entry[:3], 99] for name, entry in json.loads(text).items()}
        path.write_text(f"{digest}\n{json.dumps(entries)}")
    assert remembered("numbers", files, Numbers()) == [0, 1, 2]


def test_a_cache_that_cannot_be_written_is_done_without(files, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered("numbers", files, Numbers()) == [0, 1, 2]


def test_what_another_has_found_meanwhile_is_kept(files):
    def find(paths):
        remembered("numbers", [files[1]], Numbers())  # another process
        yield from Numbers()(paths)

    remembered("numbers", [files[0]], find)
    after = Numbers()
    assert remembered("numbers", files[:2], after) == [0, 1] and after.read == []


def nothing_is_read(monkeypatch):
    """As in another process, which finds all in the cache."""

    def refuse(*args, **more):
        raise AssertionError("read again")

    images._look.cache_clear()
    masks._mask_fault.cache_clear()
    for place, name in (
        (images, "_decoded"), (images, "image_size"), (masks, "read_mask"), (masks, "image_size"),
        (voc.ElementTree, "parse"), (recipe, "file_stamp"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, refuse)


def everything(layout, root, split):
    catalog = read_catalog(layout, root, split)
    batches = SameShapeBatches(catalog, lambda height, width: (height, width), 10**6).batches
    return catalog, batches, stamp_catalog(catalog), largest_image(catalog.records)


def test_a_devkit_is_read_once(drawn, monkeypatch):
    first = everything("voc", drawn, "train")
    nothing_is_read(monkeypatch)
    assert everything("voc", drawn, "train") == first


def test_a_folder_is_read_once(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "good")
    write_mask(root / "masks" / "größe 1" / "bild 00.png", np.zeros((40, 56), np.uint8))
    first = everything("folder", root, "all")
    assert sum(record.mask is not None for record in first[0].records) == 1
    nothing_is_read(monkeypatch)
    assert everything("folder", root, "all") == first


def test_a_photograph_that_breaks_is_told_each_time(tmp_path):
    root = make_folder(tmp_path / "good")
    before = len(read_catalog("folder", root, "all").records)
    path = next(root.rglob("*.jpg"))
    path.write_bytes(b"broken")
    for named in (root, Path(os.path.relpath(root))):
        (found,) = images.look_at([named / path.relative_to(root)])
        assert str(named / path.relative_to(root)) in found.fault
        assert len(read_catalog("folder", named, "all").records) == before - 1


def test_files_of_a_folder_and_its_sub_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "sub/c.PNG"):
        (tmp_path / name).touch()
    files = Files(tmp_path)
    for name, found in (("a.png", "a.png"), ("sub/b.png", "sub/b.png"), ("sub/c.png", "sub/c.PNG")):
        assert files.find(name) == tmp_path / found
    for name in ("sub", "b.png", "sub/a.png", "nowhere/a.png"):
        assert files.find(name) is None


def test_lists_that_name_an_image_twice_are_told_at_once(drawn, tmp_path):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "x.txt").write_text("\n".join([*map(str, range(50_000)), "49999"]))
    with pytest.raises(UserError, match="lists '49999' more than once"):
        read_catalog("voc", tmp_path, "x")


def test_a_file_with_a_date_to_come_is_kept_until_it_changes(files):
    later = time.time() + 10**6
    for path in files:
        os.utime(path, (later, later))
    find = Numbers()
    for _ in range(2):
        assert remembered("numbers", files, find) == [0, 1, 2]
    assert find.read == files
    files[1].write_text("7")  # by a clock that is right again
    assert remembered("numbers", files, find) == [0, 7, 2] and find.read[3:] == [files[1]]
