"""Which files are photographs."""

import pytest
from odd_files import photo

from wsss.data.photographs import find_photographs
from wsss.errors import UserNotice, forget_notices


def test_links_to_folders_are_followed_once(tmp_path):
    for name in ("root/red", "root/deep/green", "disk/blue"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(3):
            photo(number).save(tmp_path / name / f"{number}.jpg")
    root = tmp_path / "root"
    links = {"blue": "../disk/blue", "azure": "../disk/blue", "lost": "../gone", "up": "..", "me": "."}
    links |= {"deep/again": "..", "zed": "red"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "disk" / "blue" / "back").symlink_to("..")
    photo(9).save(tmp_path / "disk" / "beside.jpg")
    forget_notices()
    with pytest.warns(UserNotice) as told:
        found = sorted(find_photographs([root]))
    wanted = ["azure/0", "azure/1", "azure/2", "azure/back/beside", "deep/green/0", "deep/green/1"]
    assert found == [*wanted, "deep/green/2", "red/0", "red/1", "red/2"]
    said = [str(one.message) for one in told]
    for name in ("blue", "up", "me", "deep/again", "zed", "azure/back/blue"):
        assert any(f" {root / name}, a link to what" in line for line in said), name
    assert any("1 links that lead nowhere" in line and "lost" in line for line in said)


def test_a_raw_file_beside_its_photograph_is_passed_over(tmp_path):
    photo(0).save(tmp_path / "DSC1.JPG")
    for name in ("DSC1.NEF", "DSC2.NEF"):
        (tmp_path / name).write_bytes(b"raw")
    with pytest.warns(UserNotice, match=r"passed over: 1 files .* \(first: DSC1\.NEF\)"):
        found = find_photographs([tmp_path])
    assert found == {"DSC1": tmp_path / "DSC1.JPG", "DSC2": tmp_path / "DSC2.NEF"}
