"""Names that tables and lists give."""

import pytest

from wsss.data.modules import MaskData
from wsss.data.names import Files, inside, leads_out
from wsss.errors import UserError


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800"])
def test_what_no_file_can_be_called(name, tmp_path):
    assert leads_out(tmp_path, name)
    with pytest.raises(UserError, match=r"list.txt names .*, which no file can be called"):
        inside(tmp_path, name, tmp_path / "list.txt")
    assert Files(tmp_path).find(f"{name}/x.jpg") is None


@pytest.mark.parametrize("name", ["../a", "b/../../a", "/etc/passwd", "b/.."])
def test_what_leads_out(name, tmp_path):
    if name == "b/..":
        assert not leads_out(tmp_path, name)  # it leads back, not out
        return
    with pytest.raises(UserError, match="lies outside"):
        inside(tmp_path, name, tmp_path / "list.txt")
    assert inside(tmp_path, "b/a.jpg", tmp_path) == tmp_path / "b" / "a.jpg"


@pytest.mark.parametrize("place", ["root", "tags", "mask_dir"])
@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "é" * 300])
def test_a_place_of_data_that_no_file_can_be_called(place, name):
    with pytest.raises(UserError, match=f"data.{place} is .*, which no file can be called: correct"):
        MaskData(**{"root": "data", place: name})
