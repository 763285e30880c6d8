"""The names and colours of VOC."""

import numpy as np

from wsss.voc import palette


def test_palette_is_the_devkits():
    colours = np.array(palette()).reshape(256, 3)
    assert colours[0].tolist() == [0, 0, 0] and colours[15].tolist() == [192, 128, 128]  # person
    assert colours[20].tolist() == [0, 64, 128] and colours[255].tolist() == [224, 224, 192]
