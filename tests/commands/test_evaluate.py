"""`wsss evaluate`: what it compares, and what it says."""

import json
import unicodedata

import numpy as np
import pytest
from exchange_helpers import masks_on_disk
from PIL import Image

from wsss.cli import main
from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserNotice


def test_what_is_said(tmp_path, capsys):
    for folder in ("a", "b"):
        write_mask(tmp_path / folder / "x.png", np.array([[0, 1], [1, 255]]))
    words = ["evaluate", str(tmp_path / "a"), str(tmp_path / "b"), "--json", str(tmp_path / "s.json")]
    with pytest.warns(UserNotice, match="VOC's are shown: pass --classes"):
        assert main(words) == 0
    printed = capsys.readouterr()
    assert "mIoU 100.00" in printed.out and "aeroplane" in printed.out
    (tmp_path / "JPEGImages").mkdir()  # VOC's own folder
    assert main(words) == 0
    assert not capsys.readouterr().err.count("note")
    write_mask(tmp_path / "b" / "y.png", np.array([[0, 1], [1, 255]]))
    (tmp_path / "b" / "classes.txt").write_text("cat\ndog\n")
    with pytest.warns(UserNotice, match="not compared: 1 of 2 ground-truth masks have no prediction"):
        assert main(words) == 0
    printed = capsys.readouterr().out
    assert "cat" in printed and "aeroplane" not in printed
    write_mask(tmp_path / "a" / "day 1" / "z z.png", np.array([[0, 1], [1, 255]]))
    with pytest.warns(
        UserNotice, match=r"1 of 2 predictions have no ground-truth mask .*day 1/z z.png"
    ):
        assert main(words) == 0
    (tmp_path / "list.txt").write_text("x 1\nday 1/z z\n")
    write_mask(tmp_path / "b" / "day 1" / "z z.png", np.array([[0, 1], [1, 255]]))
    capsys.readouterr()
    assert main([*words, "--list", str(tmp_path / "list.txt")]) == 0
    assert "images 2" in capsys.readouterr().out
    (tmp_path / "a" / "classes.txt").write_text("dog\ncat\n")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "are dog, cat, those of" in error and "cat, dog: " in error
    (tmp_path / "a" / "classes.txt").unlink()
    (tmp_path / "file").write_text("")
    with pytest.warns(UserNotice, match="not compared"):
        assert main([*words[:-1], str(tmp_path / "file" / "s.json")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path / 'file'}")
    assert json.loads((tmp_path / "s.json").read_text())["miou"] == 100.0


def test_a_palette_that_an_editor_changed_is_told(tmp_path):
    """The colours are the same at the same pixels, and the indices, which count, are others."""
    masks_on_disk(tmp_path / "true", "abc")
    masks_on_disk(tmp_path / "saved", "abc")
    with Image.open(tmp_path / "saved" / "b.png") as image:
        changed = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    changed.save(tmp_path / "saved" / "b.png")
    assert set(np.unique(read_mask(tmp_path / "saved" / "b.png"))) == {0, 1}
    words = ["evaluate", str(tmp_path / "saved"), str(tmp_path / "true")]
    with pytest.warns(UserNotice) as told:
        assert main(words) == 0
    said = [str(one.message) for one in told if "palette" in str(one.message)]
    assert len(said) == 1 and "palette of 1 masks is not VOC's" in said[0]
    assert f"{tmp_path / 'saved' / 'b.png'}: index 0 is " in said[0] and "VOC's label" in said[0]


@pytest.mark.parametrize("listed", [False, True])
def test_accents_match_however_they_are_written(tmp_path, listed):
    names = ["été/garçon", "ñ 2", "plain"]
    forms = {form: [unicodedata.normalize(form, name) for name in names] for form in ("NFC", "NFD")}
    masks_on_disk(tmp_path / "made", forms["NFC"])
    masks_on_disk(tmp_path / "true", forms["NFD"])
    (tmp_path / "list.txt").write_text("\n".join(forms["NFD"]) + "\n", encoding="utf-8")
    words = ["evaluate", str(tmp_path / "made"), str(tmp_path / "true"), "--json", str(tmp_path / "s")]
    assert main([*words, *(["--list", str(tmp_path / "list.txt")] if listed else [])]) == 0
    scores = json.loads((tmp_path / "s").read_text())
    assert scores["images"] == 3 and scores["miou"] == pytest.approx(100)


def test_the_order_of_classes_of_other_tools_is_read(tmp_path, capsys):
    """labelme's list beside its masks; ours beside the predictions has another order."""
    masks_on_disk(tmp_path / "labelme" / "SegmentationClass", "ab", 2)
    masks_on_disk(tmp_path / "run" / "masks", "ab", 1)
    (tmp_path / "labelme" / "class_names.txt").write_text("_background_\nkite\nball\n")
    (tmp_path / "run" / "classes.txt").write_text("ball\nkite\n")
    words = [
        "evaluate",
        str(tmp_path / "run" / "masks"),
        str(tmp_path / "labelme" / "SegmentationClass"),
    ]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "ball, kite" in said and "kite, ball" in said
    (tmp_path / "run" / "classes.txt").write_text("kite\nball\n")
    assert main(words) == 0
    assert "kite" in (said := capsys.readouterr().out) and "aeroplane" not in said
