"""What the VOC evaluation server gets."""

import tarfile

import numpy as np
from exchange_helpers import export, refused
from PIL import Image

from wsss.data.masks import write_mask
from wsss.voc import VOID, palette


def test_the_server_gets_its_layout(data, capsys):
    label = np.zeros((8, 9), np.uint8)
    label[2:4] = 20
    write_mask(data / "test" / "2008_000006.png", label)
    Image.new("RGB", (9, 8)).save(data / "photos" / "2008_000006.jpg")
    assert export(data, "voc-server", "results.tgz", masks="test") == 0
    with tarfile.open(data / "results.tgz", "r:gz") as archive:
        place = "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"
        assert archive.getnames() == [place]
        with Image.open(archive.extractfile(place)) as image:
            np.testing.assert_array_equal(np.array(image), label)
            assert image.getpalette()[:63] == palette()[:63]
    label[0] = VOID
    write_mask(data / "test" / "2008_000006.png", label)
    assert export(data, "voc-server", "again.tgz", masks="test") == 2
    refused(capsys, "2008_000006", "255")
    assert not (data / "again.tgz").exists()
