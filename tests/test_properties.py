"""What holds for any input of the pure parts, not for those alone that somebody thought of."""

import csv
import io
from itertools import islice, permutations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from wsss.data.coco import Frame, where_marked
from wsss.data.gather import Found
from wsss.data.splits import split_of
from wsss.data.tags import TagRow, read_tag_table
from wsss.distributed import in_order
from wsss.evaluation import Evaluator, confusion_matrix, iou_of, pixel_counts
from wsss.exchange.outlines import outlines
from wsss.geometry import fit_long_side, fit_within
from wsss.localize.slots import propagate
from wsss.sheets import as_meant, as_text, table
from wsss.voc import VOID

settings.register_profile(
    "suite",
    derandomize=True,  # the same examples in every run
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")

TAGS = ("a", "b", "c", "d")
SIDES = some.integers(1, 12)
SHAPES = some.tuples(SIDES, SIDES)


@given(some.dictionaries(some.text("xyz", min_size=1), some.sets(some.sampled_from(TAGS)), min_size=1))
def test_splits(tags):
    rows = [TagRow(name, tuple(sorted(its)), None) for name, its in tags.items()]
    splits = split_of(rows)
    assert splits.keys() == tags.keys() and {*splits.values()} <= {"train", "val"}
    for tag in set().union(*tags.values()):
        assert "train" in {splits[name] for name, its in tags.items() if tag in its}
    for other in islice(permutations(rows), 6):  # whatever the order of the table
        assert split_of(other) == splits


SIGNS = "=+-@'\"\t\r\n ,;|.#ab\u00e9\u5199"
"""Of which cells are made: those that mean something in a table, and some that do not."""


@given(some.text(SIGNS))
def test_a_cell_is_no_formula_and_is_read_as_it_was(text):
    assert as_meant(as_text(text)) == text
    assert not as_text(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    (row,) = csv.reader(io.StringIO(table([text, "end"], []), newline=""))
    assert [*map(as_meant, row)] == [text, "end"]


NAMES = some.text(SIGNS.translate({ord(sign): None for sign in "\t\r\n |"}), min_size=1)
"""What a file can be called, and a class."""


@given(
    images=some.lists(some.tuples(NAMES, some.sets(some.sampled_from([0, 1, 2]))), min_size=1),
    data=some.data(),
)
def test_tags_csv_is_read_as_it_was_written(images, data, tmp_path):
    classes = data.draw(some.lists(NAMES, min_size=3, max_size=3, unique_by=str.casefold))
    assume(not {"image", "tags", "split", "looked_for"} & {name.casefold() for name in classes})
    found = Found(classes=tuple(classes))
    found.tags = {f"{name}.jpg": tuple(classes[i] for i in sorted(its)) for name, its in images}
    found.splits = dict.fromkeys(found.tags, "train")
    path = tmp_path / "tags.csv"
    path.write_text(found.table(), encoding="utf-8", newline="")
    assume(any(found.tags.values()))
    read = {row.image: row.tags for row in read_tag_table(path, tmp_path).rows}
    assert read == found.tags


@given(some.data(), SHAPES, some.integers(1, 8))
def test_run_lengths_are_drawn_as_they_were(data, shape, turn):
    upright = data.draw(arrays(bool, shape))
    drawn = upright if turn == 1 else _turned_back(upright, turn)
    frame = Frame(upright.shape, turn, turn=turn)
    packed = coco_mask.encode(np.asfortranarray(drawn, np.uint8))
    counts, value = [], False
    for pixel in drawn.T.ravel():  # by columns, beginning with what is off
        if not counts or pixel != value:
            counts += [0] if not counts and pixel else []
            counts.append(0)
            value = pixel
        counts[-1] += 1
    for shape_of in (
        {"size": list(drawn.shape), "counts": packed["counts"].decode()},
        {"size": list(drawn.shape), "counts": counts},
    ):
        where, faults = where_marked(shape_of, frame, "mark")
        assert not faults and np.array_equal(where, upright)


def _turned_back(upright, turn):
    """What a camera has saved of a picture that EXIF turns (https://exiftool.org, Orientation)."""
    saved = {2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T}
    saved |= {6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)}
    return saved[turn]


@given(some.data(), SHAPES)
def test_outlines_differ_from_their_mask_at_its_border_alone(data, shape):
    where = data.draw(arrays(bool, shape))
    parts = outlines(where)
    assert bool(parts) == where.any()
    drawn = np.zeros(shape, bool)
    if parts:
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, *shape))).astype(bool)
    square = np.ones((3, 3), np.uint8)
    grown = cv2.dilate(where.astype(np.uint8), square) > 0
    shrunk = cv2.erode(where.astype(np.uint8), square, borderValue=0) > 0
    assert not (drawn & ~grown).any() and not (shrunk & ~drawn).any()


@given(some.integers(1, 20_000), some.integers(1, 20_000), some.integers(1, 4000), some.integers(1, 64))
def test_sizes(height, width, side, multiple):
    fitted = fit_long_side(height, width, side, multiple)
    assert all(type(one) is int and one >= multiple and one % multiple == 0 for one in fitted)
    assert abs(max(fitted) - side) <= max(multiple / 2, multiple - side)
    within = fit_within(height, width, side)
    assert max(within) <= max(side, 1) and within[0] <= height and within[1] <= width
    assert within == (height, width) or max(within) == side
    assert fit_within(*within, side) == within
    turned = fit_within(width, height, side)
    assert turned == within[::-1]


@given(some.data(), some.integers(1, 3), some.integers(1, 4), SHAPES, some.integers(0, 3))
def test_propagation_keeps_the_range_and_what_is_constant(data, count, slots, shape, steps):
    values = some.floats(0, 1, width=32)
    maps = torch.from_numpy(data.draw(arrays(np.float32, (1, count, *shape), elements=values)))
    weights = data.draw(arrays(np.float32, (1, slots, *shape), elements=values))
    dispatch = torch.from_numpy(weights).softmax(1)
    found = propagate(maps, dispatch, steps)
    assert found.shape == maps.shape and found.dtype == torch.float32
    low, high = (edge(maps.flatten(2), 2)[..., None, None] for edge in (torch.amin, torch.amax))
    assert ((low - 1e-5 <= found) & (found <= high + 1e-5)).all()
    # the sum of a map stays: slots take means by the weights with which they hand them back
    torch.testing.assert_close(found.sum((2, 3)), maps.sum((2, 3)), rtol=1e-4, atol=1e-4)
    constant = propagate(torch.full_like(maps, 0.3), dispatch, steps)
    torch.testing.assert_close(constant, torch.full_like(maps, 0.3))


@given(some.lists(some.integers()), some.integers(1, 9))
def test_shares_come_together_in_their_order(items, processes):
    assert in_order([items[rank::processes] for rank in range(processes)]) == items


@given(some.data(), SHAPES, some.integers(1, 4))
def test_confusion_matrix(data, shape, classes):
    labels = some.sampled_from([*range(classes + 1), VOID])
    target, predicted = (data.draw(arrays(np.uint8, shape, elements=labels)) for _ in range(2))
    counts = pixel_counts(predicted, target)
    assert sum(pixels for *_, pixels in counts) == target.size
    matrix = confusion_matrix([counts, counts], classes + 1)
    wanted = np.zeros_like(matrix)
    for true, its in zip(target.ravel(), predicted.ravel(), strict=True):
        if VOID not in (true, its):
            wanted[true, its] += 2
    assert np.array_equal(matrix, wanted)
    evaluator = Evaluator([f"class {number}" for number in range(classes)])
    for _ in range(2):
        evaluator.update(torch.from_numpy(predicted), torch.from_numpy(target))
    assert np.array_equal(evaluator.confusion.numpy(), wanted)
    iou = iou_of(matrix)
    assert np.array_equal(np.isnan(iou), (matrix.sum(0) + matrix.sum(1)) == 0)
    if evaluator.measurable:
        scores = evaluator.compute()
        assert scores.miou == pytest.approx(np.nanmean(iou))
        assert [value is None for value in scores.iou.values()] == np.isnan(iou).tolist()
