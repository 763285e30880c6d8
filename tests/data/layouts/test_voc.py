"""The layout of VOC's development kit."""

import shutil
import unicodedata

import numpy as np
import pytest

from wsss.data.catalog import read_catalog
from wsss.data.images import read_image
from wsss.data.masks import read_mask
from wsss.errors import UserError


def test_bad_voc_roots_are_named(drawn, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(drawn, root)
    with pytest.raises(UserError, match="nowhere"):
        read_catalog("voc", tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"no split 'trainaug'.*known here: train, val"):
        read_catalog("voc", root, "trainaug")
    with pytest.raises(UserError, match="outside"):
        read_catalog("voc", root, "../../../etc/passwd")
    lists = root / "ImageSets" / "Segmentation"
    for line, message in (
        ("missing\n", "no image"),
        ("../../x\n", "outside"),
        ("train_00000\ntrain_00000\n", "more than once"),
        ("\n", "lists no image"),
    ):
        (lists / "bad.txt").write_text(line)
        with pytest.raises(UserError, match=message):
            read_catalog("voc", root, "bad")
    annotation = root / "Annotations" / "train_00000.xml"
    for text, message in (
        ("<annotation><object><name>unicorn</name></object></annotation>", "unicorn"),
        ("<annotation/>", "names no object"),
        ("<annotation>", "not readable XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "not readable XML"),
    ):
        annotation.write_text(text)
        with pytest.raises(UserError, match=message):
            read_catalog("voc", root, "train")


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_devkits_lists_match_however_accents_are_written(drawn, tmp_path, forms):
    root = tmp_path / "voc"
    shutil.copytree(drawn, root)
    lists = root / "ImageSets" / "Segmentation"
    first = (lists / "val.txt").read_text().split()[0]
    listed, stored = (unicodedata.normalize(form, "été") for form in forms)
    for folder, end in (("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("Annotations", "xml")):
        (root / folder / f"{first}.{end}").rename(root / folder / f"{stored}.{end}")
    (lists / "val.txt").write_text(f"{listed}\n", encoding="utf-8")
    (record,) = read_catalog("voc", root, "val").records
    assert record.id == listed and record.tags
    assert record.image.stem == record.mask.stem == stored and record.mask.is_file()


def test_real_voc(voc_root):
    catalog = read_catalog("voc", voc_root, "train")
    assert len(catalog.classes) == 20
    for record in catalog.records[:20]:
        labels = set(np.unique(read_mask(record.mask, 21)).tolist()) - {0, 255}
        assert labels == {tag + 1 for tag in record.tags}
        assert read_image(record.image).shape[:2] == read_mask(record.mask).shape
