"""YOLO's outlines, as several tools lay them out."""

import shutil
import zipfile

import numpy as np
import pytest
from exchange_helpers import export, import_, labels, refused
from PIL import Image

from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserNotice


def test_folders_called_as_theirs(data):
    """Photographs in folders `images` and `train`, and a list of classes beside data.yaml."""
    for number, name in enumerate(("images/x", "train/x", "train/images/y")):
        where = data / "photos" / f"{name}.jpg"
        where.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(where)
        write_mask(data / "own" / f"{name}.png", np.full((30, 40), number % 2, np.uint8))
    assert export(data, "yolo-seg", "y", masks="own") == 0
    (data / "y" / "classes.txt").write_text("ball\nbrick\nkite\n")
    assert import_(data, "y") == 0
    masks = {p.relative_to(data / "back").as_posix(): read_mask(p) for p in data.glob("back/**/*.png")}
    assert {name: mask.max() for name, mask in masks.items()} == {
        "images/x.png": 0,
        "train/x.png": 1,
        "train/images/y.png": 0,
    }


def test_yolo_files_of_one_image_are_told(data, capsys):
    assert export(data, "yolo-seg", "y") == 0
    label = next(path for path in (data / "y" / "labels").rglob("*.txt") if path.stem == "plain")
    other = data / "y" / "labels" / "val" / "plain.txt"
    other.parent.mkdir()
    shutil.copy(label, other)
    assert import_(data, "y") == 2
    refused(capsys, "'plain' twice")


@pytest.mark.parametrize("line", ["7 0 0 1 0 1 1", "0 0.5 0.5 1 1", "0 0 0 a 0 1 1", "0 0 0 99 0 1 1"])
def test_broken_yolo_lines_are_told(data, capsys, line):
    assert export(data, "yolo-seg", "y.zip") == 0
    with zipfile.ZipFile(data / "y.zip") as file:
        file.extractall(data / "y")
    (data / "y" / "labels" / "train" / "plain.txt").write_text(line)
    assert import_(data, "y") == 2
    refused(capsys, "plain.txt, line 1")
    shutil.make_archive(str(data / "z"), "zip", data / "y")
    assert import_(data, "z.zip") == 2
    refused(capsys, "z.zip/labels/train/plain.txt, line 1")  # not the place it is unpacked in


@pytest.mark.parametrize(
    "names",
    [
        "['ball', 'kite']",
        "\n- ball\n- kite",
        "\n  0: ball\n  1: kite",
        "\n  '0': ball\n  '1': kite",
        "{0: ball, 1: kite, 2: never used}",
    ],
)
def test_yolo_as_roboflow_lays_it_out(data, names):
    """A folder for each subset, its names of files, and folders of images instead of lists."""
    files = {
        "train": "plain_jpg.rf.0123456789abcdef0123456789abcdef",
        "valid": "b-2_JPG.rf.0123456789abcdef0123456789abcdee",
        "test": "other_png.rf.Zk3vQ7bT1xW9",
    }
    for subset, name in files.items():
        (data / "rf" / subset / "labels").mkdir(parents=True)
        line = "" if subset == "test" else "1 0.5 0.5 1 0.5 1 1 0.5 1\n"
        (data / "rf" / subset / "labels" / f"{name}.txt").write_text(line)
    (data / "rf" / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: {names}\n"
    )
    with pytest.warns(UserNotice, match=r"1 photographs .* have nothing marked"):
        assert import_(data, "rf") == 0
    assert labels(data, "a/b 2") == {0: 64 * 48 * 3 // 4, 3: 64 * 48 // 4}
    assert set(labels(data, "plain")) == {0, 3} and set(labels(data, "other")) == {0}
    shutil.make_archive(str(data / "z"), "zip", data / "rf")
    with pytest.warns(UserNotice, match="have nothing marked"):
        assert import_(data, "z.zip", out="zipped") == 0
    assert labels(data, "a/b 2", "zipped") == labels(data, "a/b 2")


def test_augmented_pictures_of_roboflow_are_told(data, capsys):
    """Turned and cropped copies of a photograph are not the photograph."""
    (data / "rf" / "train" / "labels").mkdir(parents=True)
    (data / "rf" / "data.yaml").write_text("names: [ball]\n")
    for sign in "ab":
        name = f"plain_jpg.rf.{sign * 32}.txt"
        (data / "rf" / "train" / "labels" / name).write_text("0 0 0 1 0 1 1\n")
    assert import_(data, "rf") == 2
    refused(capsys, "'plain'", "augmentation")


@pytest.mark.parametrize("subset", ["", "val/", "Validation/"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.json", '{"categories": [{"id": 0, "name": "kite"}, {"id": 1, "name": "ball"}]}'),
        ("classes.txt", "kite\nball\n"),
        ("labels/classes.txt", "kite\nball\n"),
        ("obj.names", "kite\nball\n"),
        ("data.yml", "names: {0: kite, 1: ball}\n"),
    ],
)
def test_yolo_without_data_yaml(data, name, text, subset):
    """As Label Studio and labelImg have it; LabelMe's and others' subsets."""
    (data / "ls" / "labels" / subset).mkdir(parents=True)
    line = "1 0.5 0.5 1 0.5 1 1 0.5 1\n"
    (data / "ls" / "labels" / subset / "0123abcd-b_2.txt").write_text(line)
    (data / "ls" / name).write_text(text)
    assert import_(data, "ls") == 0
    assert labels(data, "a/b 2") == {0: 64 * 48 * 3 // 4, 1: 64 * 48 // 4}


def test_yolo_without_a_list_of_classes_is_told(data, capsys):
    (data / "y" / "labels").mkdir(parents=True)
    (data / "y" / "labels" / "plain.txt").write_text("0 0 0 1 0 1 1\n")
    assert import_(data, "y") == 2
    refused(capsys, "YOLO", "data.yaml", "classes.txt")
    (data / "y" / "data.yaml").write_text("nc: 2\n")
    assert import_(data, "y") == 2
    refused(capsys, "data.yaml", "names")
