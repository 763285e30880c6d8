"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from wsss.cli import main
from wsss.data.masks import write_mask
from wsss.errors import UserError
from wsss.files import file_stamp, read_json, sweep, write_atomic, write_json, write_text


def test_a_file_is_told_by_its_content_not_its_date(tmp_path):
    mask = np.zeros((300, 300), np.uint8)
    mask[::2] = np.random.default_rng(0).integers(0, 20, (150, 300))
    for name in ("a", "b", "c"):
        mask[150, 150] = 1 if name != "c" else 2
        write_mask(tmp_path / f"{name}.png", mask)
    os.utime(tmp_path / "b.png", (1, 1))
    stamps = [file_stamp(tmp_path / f"{name}.png") for name in ("a", "b", "c")]
    assert stamps[0] == stamps[1] != stamps[2]
    for name, tail in (("d", b"x"), ("e", b"y"), ("f", b"xx")):
        (tmp_path / name).write_bytes(bytes(10**6) + tail)
    assert len({file_stamp(tmp_path / name) for name in "def"}) == 3


@pytest.mark.parametrize("damage", [b"", b'{"size": ', b"\xff\xfe\x00"])
def test_a_damaged_note_is_told(damage, tmp_path):
    note = tmp_path / "settings.json"
    write_json(note, {"size": [1.5, None, "\N{LATIN SMALL LETTER E WITH ACUTE}"]})
    assert read_json(note) == {"size": [1.5, None, "\N{LATIN SMALL LETTER E WITH ACUTE}"]}
    note.write_bytes(damage)
    with pytest.raises(UserError, match=r"settings\.json is damaged .*remove it"):
        read_json(note)


def test_a_file_may_have_the_longest_name_there_is(tmp_path):
    path = tmp_path / ("写" * 83 + "ab.png")  # 255 bytes
    write_mask(path, np.ones((4, 4), int))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told(good, tmp_path, monkeypatch, capsys):
    def full(path, write):
        write_atomic(path, lambda aside: Path("/dev/full").write_text("x"))

    monkeypatch.setattr("wsss.files.write_atomic", full)
    assert main(["check", str(good), "--json", str(tmp_path / "r.json")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"error: {tmp_path / 'r.json'}: No space left on device: make room, the same command goes on "
        "with what is left"
    )
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_a_folder_that_is_only_read_is_told(error, good, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "replace", refuse)
    assert main(["check", str(good), "--json", str(tmp_path / "r.json")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said == f"error: {tmp_path / 'r.json'}: {os.strerror(error)}: allow it, or give another place"
    )
    assert not list(tmp_path.glob("*.part"))


def test_a_working_folder_that_is_gone_is_told(good, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert main(["check", str(good)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the working folder is gone: go to one") and said.count("\n") == 1


def test_what_was_written_half_is_removed(tmp_path):
    write_text(tmp_path / "masks" / "a.png", "whole")
    (tmp_path / "masks" / ".650f-e7b50b89.part").write_text("half")
    (tmp_path / ".12ab-.part").touch()  # of processes that look whether they share a folder
    for name in ("b.part", ".my-film.part"):
        (tmp_path / name).write_text("somebody's own")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        ".my-film.part",
        "a.png",
        "b.part",
    ]
