"""A photograph through the chain, and the strip of some."""

import numpy as np
from PIL import Image

from wsss.pictures.strip import SIDE, chain_row, write_strip


def test_a_row_shows_the_steps_in_their_order(tmp_path):
    rng = np.random.default_rng(0)
    image, seed = rng.integers(0, 256, (40, 80, 3), np.uint8), rng.random((1, 5, 10)).astype(np.float32)
    mask = np.zeros((40, 80), np.uint8)
    mask[10:30, 20:60] = 1
    names, dispatch = ["background", "cat"], rng.random((3, 2, 4)).astype(np.float32)
    full = chain_row(image, ["cat"], seed, ["cat"], dispatch, {"a": mask, "b": mask}, names)
    assert [cell.caption for cell in full.cells] == ["photograph", "seed", "slot groups", "a", "b"]
    assert full.tags == "cat" and {cell.picture.shape for cell in full.cells} == {(SIDE // 2, SIDE, 3)}
    bare = chain_row(image, [], seed[:0], [], None, {"a": mask}, names)  # no tag, no slots
    assert [cell.caption for cell in bare.cells] == ["photograph", "seed", "a"]
    assert bare.tags == "(no tag)"
    write_strip(tmp_path / "strip.png", [full, bare])
    sheet = Image.open(tmp_path / "strip.png")
    assert sheet.size[0] == 150 * 5
    right, left = (np.asarray(sheet)[-60:, 150 * k : 150 * (k + 1)] for k in (4, 3))
    assert (right == 255).all() and (left < 255).any()  # the second row lacks the last column
