"""PASCAL VOC 2012: class names, the palette of its masks, the void label."""

VOID = 255
"""Mask value of pixels without a label: the border of objects in VOC, unsure pixels in ours."""

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The twenty foreground classes in the order of their mask labels 1 to 20; 0 is background."""


def palette() -> list[int]:
    """The VOC colour map as 768 integers (R, G, B of labels 0 to 255).

    The bits of a label are dealt in turn to the three channels, highest channel bit first
    (`VOClabelcolormap` of the VOC 2012 development kit).
    """
    colours = []
    for label in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
        colours += rgb
    return colours
