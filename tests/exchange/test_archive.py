"""Archives that users are given."""

import stat
import zipfile

from exchange_helpers import export, import_, pairs, refused


def test_an_archive_that_does_not_say_its_names_are_utf8(data):
    assert export(data, "voc", "v.zip") == 0
    content = (data / "v.zip").read_bytes()
    with zipfile.ZipFile(data / "v.zip") as archive:
        assert any(one.flag_bits & 0x800 for one in archive.infolist())
        places = [(one.header_offset + 6, one.flag_bits) for one in archive.infolist()]
        start = archive.start_dir
    content = bytearray(content)
    for place, flags in places:
        content[place : place + 2] = (flags & ~0x800).to_bytes(2, "little")
    while content[start : start + 4] == b"PK\x01\x02":
        flags = int.from_bytes(content[start + 8 : start + 10], "little") & ~0x800
        content[start + 8 : start + 10] = flags.to_bytes(2, "little")
        lengths = [int.from_bytes(content[start + i : start + i + 2], "little") for i in (28, 30, 32)]
        start += 46 + sum(lengths)
    (data / "v.zip").write_bytes(content)
    assert import_(data, "v.zip") == 0
    assert all((ours == back).all() for ours, back in pairs(data))


def test_archives_that_lead_out_are_refused(data, capsys):
    for name in ("../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"):
        with zipfile.ZipFile(data / "given.zip", "w") as file:
            file.writestr(name, "x")
        assert import_(data, "given.zip") == 2
        refused(capsys, "given.zip", name)
    with zipfile.ZipFile(data / "given.zip", "w") as file:
        link = zipfile.ZipInfo("labelmap.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    assert import_(data, "given.zip") == 2
    refused(capsys, "given.zip", "labelmap.txt")
    (data / "given.zip").write_bytes(b"no archive")
    assert import_(data, "given.zip") == 2
    refused(capsys, "given.zip", "cannot be unpacked")


def test_archives_that_grow_are_refused(data, capsys, monkeypatch):
    monkeypatch.setattr("wsss.exchange.archive.UNPACKED", 1000)
    with zipfile.ZipFile(data / "given.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("labelmap.txt", "x" * 2000)
    assert import_(data, "given.zip") == 2
    refused(capsys, "given.zip", "refused")
