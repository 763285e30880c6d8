"""Reading data sets, images and masks; bad input is named."""

import io
import os
import shutil
import struct
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from odd_files import ON_ITS_SIDE, chunk, deep_png, deep_tiff, exif, photo
from PIL import Image

from wsss.data.catalog import Catalog, read_catalog, read_classes
from wsss.data.datasets import MaskedImages, SameShapeBatches, TaggedImages
from wsss.data.images import image_size, look, read_image
from wsss.data.masks import read_mask, read_scores, write_arrays, write_mask
from wsss.data.modules import MaskData, TagData
from wsss.data.synthetic import SYNTHETIC_CLASSES, draw_dataset, draw_scene
from wsss.data.tags import read_tag_table, split_of
from wsss.errors import UserError
from wsss.files import file_stamp, read_json, write_json
from wsss.voc import VOID, palette


def test_palette_is_the_devkits():
    colours = np.array(palette()).reshape(256, 3)
    assert colours[0].tolist() == [0, 0, 0] and colours[15].tolist() == [192, 128, 128]  # person
    assert colours[20].tolist() == [0, 64, 128] and colours[255].tolist() == [224, 224, 192]


def test_mask_round_trip_keeps_labels_not_colours(tmp_path):
    mask = np.random.default_rng(0).integers(0, 256, (7, 5)).astype(np.uint8)
    write_mask(tmp_path / "deep" / "m.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep" / "m.png"), mask)
    assert Image.open(tmp_path / "deep" / "m.png").mode == "P"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.png"]


def test_a_file_is_told_by_its_content_not_its_date(tmp_path):
    mask = np.zeros((300, 300), np.uint8)
    mask[::2] = np.random.default_rng(0).integers(0, 20, (150, 300))
    for name in ("a", "b", "c"):
        mask[150, 150] = 1 if name != "c" else 2
        write_mask(tmp_path / f"{name}.png", mask)
    os.utime(tmp_path / "b.png", (1, 1))
    stamps = [file_stamp(tmp_path / f"{name}.png") for name in ("a", "b", "c")]
    assert stamps[0] == stamps[1] != stamps[2]
    for name, tail in (("d", b"x"), ("e", b"y"), ("f", b"xx")):
        (tmp_path / name).write_bytes(bytes(10**6) + tail)
    assert len({file_stamp(tmp_path / name) for name in "def"}) == 3


def test_scores_round_trip_and_damage_is_told(tmp_path):
    scores = np.random.default_rng(0).random((2, 5, 7)).astype(np.float16)
    path = tmp_path / "deep" / "a.npz"
    write_arrays(path, scores=scores, labels=np.array([3, 20]))
    read, labels = read_scores(path)
    assert (read.dtype, labels) == (np.float32, [3, 20])
    np.testing.assert_array_equal(read, scores)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"a\.npz are damaged"):
        read_scores(path)
    with pytest.raises(UserError, match=r"no class maps .*b\.npz"):
        read_scores(tmp_path / "b.npz")


@pytest.mark.parametrize("damage", [b"", b'{"size": ', b"\xff\xfe\x00"])
def test_a_damaged_note_is_told(damage, tmp_path):
    note = tmp_path / "settings.json"
    write_json(note, {"size": [1.5, None, "\N{LATIN SMALL LETTER E WITH ACUTE}"]})
    assert read_json(note) == {"size": [1.5, None, "\N{LATIN SMALL LETTER E WITH ACUTE}"]}
    note.write_bytes(damage)
    with pytest.raises(UserError, match=r"settings\.json is damaged .*remove it"):
        read_json(note)


def test_colour_mask_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="colour image"):
        read_mask(tmp_path / "m.png")


def test_odd_images_are_read_upright_in_rgb(tmp_path):
    grey16 = Image.fromarray(np.full((4, 6), 32768, np.uint16))
    grey16.save(tmp_path / "grey16.png")
    assert abs(int(read_image(tmp_path / "grey16.png")[0, 0, 0]) - 127) <= 1
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)
    assert image_size(tmp_path / "turned.jpg") == (6, 4)


def _corners() -> np.ndarray:
    """(32, 48, 3) uint8: each corner of another colour."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = (
        (250, 10, 10),
        (10, 250, 10),
        (10, 10, 250),
    )
    return picture


# as EXIF's table has it: where the first row and the first column of the file are seen
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.rot90(a),
}


def _saved(form: str, how: int) -> bytes:
    """The picture of `_corners` in a file that says how it is to be turned."""
    picture, tags, file = _corners(), Image.Exif(), io.BytesIO()
    tags[0x0112] = how
    block = tags.tobytes().removeprefix(b"Exif\0\0")
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{how}"/>'.encode()
    deep = picture.astype(np.uint16) * 257
    image = Image.fromarray(picture)
    if form == "png, behind":
        image.save(file, "PNG")
        return file.getvalue()[:-12] + chunk(b"eXIf", block) + chunk(b"IEND", b"")
    if form in ("deep png", "deep grey png"):
        return deep_png(deep if form == "deep png" else deep[..., 0], chunk(b"eXIf", block))
    if form in ("deep tiff", "deep tiff, MM", "deep grey tiff", "deep grey tiff, MM"):
        order = ">" if "MM" in form else "<"
        return deep_tiff(deep[..., 0] if "grey" in form else deep, order, orientation=how)
    if form == "tiff, xmp":
        image.save(file, "TIFF", tiffinfo={700: xmp})
    elif form == "jpeg, xmp":
        image.save(file, "JPEG", quality=95, xmp=xmp)
    elif form == "mpo":
        image.save(file, "MPO", quality=95, save_all=True, append_images=[image], exif=tags)
    else:
        kind, _, option = form.partition(", ")
        modes = {
            "grey": image.getchannel(0),
            "palette": image.quantize(4),
            "CMYK": image.convert("CMYK"),
        }
        image = modes.get(option, image)
        packed = option and option not in modes
        more = {"compression": option} if packed else {"lossless": True, "quality": 95}
        image.save(file, kind.upper(), exif=tags, **more)
    return file.getvalue()


FORMS = (
    *("jpeg", "jpeg, xmp", "mpo", "webp", "png", "png, behind", "deep png", "deep grey png"),
    *(
        "tiff",
        "tiff, grey",
        "tiff, palette",
        "tiff, CMYK",
        "tiff, tiff_lzw",
        "tiff, tiff_adobe_deflate",
        "tiff, jpeg",
        "tiff, xmp",
    ),
    *("deep tiff", "deep tiff, MM", "deep grey tiff", "deep grey tiff, MM"),
)


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_read_upright_at_the_size_that_is_told(form, tmp_path):
    for how, turn in UPRIGHT.items():
        path = tmp_path / f"{how}.x"
        path.write_bytes(_saved(form, how))
        wanted = turn(_corners().astype(float))
        wanted = wanted[..., :1].repeat(3, 2) if "grey" in form else wanted
        found = read_image(path)
        assert image_size(path) == found.shape[:2] == wanted.shape[:2], how
        assert np.abs(found - wanted).mean() < 6, how


BROKEN_EXIF = {
    "-1/0": exif(
        ON_ITS_SIDE, struct.pack("<HHII", 0x011A, 10, 1, 38), behind=struct.pack("<ii", -1, 0)
    ),
    "0/0": exif(ON_ITS_SIDE, struct.pack("<HHII", 0x011A, 5, 1, 38), behind=bytes(8)),
    "behind the end": exif(struct.pack("<HHII", 0x010F, 2, 20, 60_000), ON_ITS_SIDE),
    "of no known kind": exif(struct.pack("<HHII", 0x010F, 99, 2**31, 2**31), ON_ITS_SIDE),
    "no numbers": exif(ON_ITS_SIDE, struct.pack("<HHI4s", 0x011A, 2, 4, b"abc")),
    "its own part": exif(ON_ITS_SIDE, struct.pack("<HHII", 0x8769, 4, 1, 2**32 - 9)),
    "cut off": exif(ON_ITS_SIDE, ON_ITS_SIDE)[:-8],
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("fault", BROKEN_EXIF)
def test_broken_exif_hides_no_photograph(fault, form, tmp_path):
    path = tmp_path / "a.x"
    Image.fromarray(_corners()).save(path, form, exif=BROKEN_EXIF[fault], lossless=True, quality=95)
    assert image_size(path) == (48, 32)
    assert np.abs(read_image(path) - UPRIGHT[6](_corners().astype(float))).mean() < 6


@pytest.mark.parametrize("form", ["JPEG", "MPO", "PNG", "WEBP"])
def test_no_damage_beside_the_pixels_hides_them(form, tmp_path):
    chance, path, file = np.random.default_rng(0), tmp_path / "a.x", io.BytesIO()
    tags = Image.Exif()
    tags.update({0x0112: 6, 0x011A: 72.0, 0x010F: "maker", 0x8769: {0x829A: 0.01}, 0x8825: {1: "N"}})
    image = Image.fromarray(_corners())
    more = {"save_all": True, "append_images": [image]} if form == "MPO" else {"lossless": True}
    image.save(file, form, exif=tags, **more)
    content = file.getvalue()
    place, length = content.index(b"MPF\0" if form == "MPO" else b"MM\0*"), 80
    for _ in range(150):
        damaged = bytearray(content)
        for at in chance.integers(place + 4, place + length, chance.choice((1, 2, 8))):
            damaged[at] = chance.integers(256)
        if form == "PNG":  # whose chunks have check sums
            start = content.index(b"eXIf")
            block = damaged[start + 4 : start + 4 + int.from_bytes(content[start - 4 : start])]
            damaged[start - 4 : start + 8 + len(block)] = chunk(b"eXIf", bytes(block))
        path.write_bytes(damaged)
        assert look(path).fault is None and image_size(path) == read_image(path).shape[:2]


def _ramp(top: int) -> np.ndarray:
    return np.linspace(0, top, 4096).reshape(64, 64).astype(np.uint16)


def test_one_white_holds_for_all_files_of_16_bits_in_a_folder(tmp_path):
    (tmp_path / "250.tif").write_bytes(deep_tiff(_ramp(250)))
    assert read_image(tmp_path / "250.tif").max() == 15  # alone it may be dark
    for top in (4000, 300):
        colour = np.repeat(_ramp(top)[..., None], 3, 2)
        (tmp_path / f"{top}.tif").write_bytes(deep_tiff(_ramp(top), ">"))
        (tmp_path / f"{top}.png").write_bytes(deep_png(_ramp(top)))
        (tmp_path / f"colour {top}.tif").write_bytes(deep_tiff(colour))
        (tmp_path / f"colour {top}.png").write_bytes(deep_png(colour))
        clear = np.concatenate([colour, np.full_like(colour[..., :1], 4095)], 2)
        (tmp_path / f"clear {top}.png").write_bytes(deep_png(clear))
        (tmp_path / f"clear grey {top}.png").write_bytes(deep_png(clear[..., 2:]))
    Image.fromarray(_ramp(255).astype(np.uint8)).save(tmp_path / "8 bits.png")
    for path in tmp_path.iterdir():
        values = 255 if "8 bits" in path.stem else int(path.stem.split()[-1])
        white = 255 if "8 bits" in path.stem else 4095
        wanted = (np.repeat(_ramp(values)[..., None], 3, 2).astype(float) * 255 // white).astype(int)
        assert np.abs(read_image(path).astype(int) - wanted).max() <= 1, path.name
        if values != 255 and "clear" not in path.stem:
            assert read_image(path, 16383).max() == values * 255 // 16383
    (tmp_path / "bright.tif").write_bytes(deep_tiff(_ramp(40_000)))
    assert read_image(tmp_path / "4000.tif").max() == 4000 * 255 // 65535
    # 8 bits in 16 are told by more than one picture
    (tmp_path / "few").mkdir()
    for top in (250, 200):
        (tmp_path / "few" / f"{top}.tif").write_bytes(deep_tiff(_ramp(top)))
    assert read_image(tmp_path / "few" / "200.tif").max() == 200


def test_what_a_file_declares_is_its_white(tmp_path):
    twelve, above = _ramp(4000), _ramp(4000) << 4

    def significant(bits):
        return chunk(b"sBIT", bytes([bits]))

    files = {
        "max.tif": (deep_tiff(_ramp(900), maximum=1023), 900 * 255 // 1023),
        # the largest value of this picture is no range
        "own max.tif": (deep_tiff(_ramp(900), maximum=900), 900 * 255 // 4095),
        "wrong.tif": (deep_tiff(_ramp(900), maximum=255), 900 * 255 // 4095),
        "max 16.tif": (deep_tiff(_ramp(900), maximum=65535), 900 * 255 // 65535),
        "below.png": (deep_png(twelve, significant(12)), 4000 * 255 // 4095),
        "above.png": (deep_png(above, significant(12)), (4000 << 4) * 255 // 65535),
        "repeated.png": (deep_png(above | above >> 12, significant(12)), 249),
        "colour.png": (deep_png(np.repeat(twelve[..., None], 3, 2), chunk(b"sBIT", b"\n\x0c\n")), 249),
    }
    for name, (content, brightest) in files.items():
        (tmp_path / name).write_bytes(content)
        assert read_image(tmp_path / name).max() == brightest, name
        (tmp_path / name).unlink()


def test_one_white_holds_for_a_data_set(tmp_path):
    lines = ["image,tags,split"]
    for number, top in enumerate((4000, 300, 250, 3000)):
        path = tmp_path / f"day {number}" / "a.tif"
        path.parent.mkdir()
        path.write_bytes(deep_tiff(_ramp(top)))
        lines.append(f"day {number}/a.tif,cat,{'val' if number > 1 else 'train'}")
        write_mask(tmp_path / "masks" / f"day {number}" / "a.png", np.ones((64, 64), np.uint8))
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    assert read_image(tmp_path / "day 1" / "a.tif").max() == 18  # as it is alone there
    (tmp_path / "day 0" / "a.tif").write_bytes(deep_tiff(_ramp(16_000)))  # another camera
    for split, tops in (("train", (16_000, 300)), ("val", (250, 3000))):
        catalog = read_catalog("folder", tmp_path, split)
        assert catalog.white == 16383
        brightest = [top * 255 // 16383 for top in tops]
        masked = MaskedImages(catalog, [record.mask for record in catalog.records], None, 64)
        whole = SameShapeBatches(catalog, lambda height, width: (height, width), 64**2)
        tagged = TaggedImages(catalog, 64, augment=False)
        for index, top in enumerate(brightest):
            assert masked[index]["image"].max() == tagged[index]["image"].max() == top
            assert whole[index]["image"].max() == top


def test_libraries_warn_of_nothing_on_the_users_terminal(tmp_path):
    Image.fromarray(_corners()).save(tmp_path / "exif.jpg", exif=BROKEN_EXIF["behind the end"])
    Image.fromarray(_corners()).save(tmp_path / "cut.jpg", exif=BROKEN_EXIF["cut off"])
    palette = photo(1).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(8)))
    tags = deep_tiff(np.repeat(_ramp(4000)[..., None], 3, 2), orientation=6)
    (tmp_path / "tags.tif").write_bytes(
        tags.replace(struct.pack("<HH", 274, 3), struct.pack("<HH", 275, 3))
    )
    files = sorted(map(str, tmp_path.iterdir()))
    # in a process that is started anew, as those of loaders and the CRF, and in the command itself
    code = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from wsss.cli import main
from wsss.program import quiet_libraries
from wsss.data.images import read_image
if __name__ == "__main__":
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=quiet_libraries) as pool:
        print(len(list(pool.map(read_image, sys.argv[2:]))), main(["check", sys.argv[1]]))
"""
    script = tmp_path.with_suffix(".py")
    script.write_text(code)
    words = [sys.executable, str(script), str(tmp_path), *files]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n4 2\n") and done.stderr == ""  # without tags


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 not a photograph"])
def test_unreadable_image_is_named(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.jpg"):
        read_image(tmp_path / "broken.jpg")


def test_truncated_and_huge_images_are_named(tmp_path, monkeypatch):
    Image.fromarray(draw_scene(np.random.default_rng(0))[0]).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.jpg"):
        read_image(tmp_path / "cut.jpg")
    # PIL warns of 9216 pixels then, which a phone may have; not in here, as pytest sets the filters
    code = "import sys; from PIL import Image; from wsss.data.images import read_image; "
    code += "from wsss.program import quiet_libraries; quiet_libraries(); "
    code += "Image.MAX_IMAGE_PIXELS = 6000; print(read_image(sys.argv[1]).shape)"
    words = [sys.executable, "-c", code, str(tmp_path / "whole.jpg")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "(96, 96, 3)\n" and done.stderr == ""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"whole\.jpg is refused"):
        read_image(tmp_path / "whole.jpg")


def test_drawn_data_is_exact_and_repeatable(drawn, tmp_path):
    draw_dataset(tmp_path / "again", train=24, val=8, size=64)
    one, other = (read_catalog("voc", root, "train") for root in (drawn, tmp_path / "again"))
    assert one.classes == SYNTHETIC_CLASSES and len(one.records) == 24
    for a, b in zip(one.records, other.records, strict=True):
        assert a.image.read_bytes() == b.image.read_bytes() and a.tags == b.tags
        labels = set(np.unique(read_mask(a.mask))) - {0}
        assert labels == {tag + 1 for tag in a.tags}


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


def test_folder_of_photographs(tmp_path):
    (tmp_path / "sub dir").mkdir()
    for index in range(10):
        Image.new("RGB", (40, 30)).save(tmp_path / "sub dir" / f"é {index}.jpg")
    lines = [f"sub dir/é {index}.jpg,{'dog|big sofa' if index % 2 else ''}" for index in range(10)]
    (tmp_path / "tags.csv").write_text("image,tags\n" + "\n".join(lines), encoding="utf-8")
    assert read_classes("folder", tmp_path) == ("big sofa", "dog")
    train, val = (read_catalog("folder", tmp_path, split) for split in ("train", "val"))
    assert len(train.records) == 8 and len(val.records) == 2
    assert {r.id for r in train.records} | {r.id for r in val.records} == {
        f"sub dir/é {index}" for index in range(10)
    }
    assert {r.tags for r in train.records} == {(), (0, 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no image"),
        ("file,tags\na.jpg,dog\n", "no column 'image'"),
        ("image,tags\na.jpg,dog\na.jpg,cat\n", "twice"),
        ("image,tags\na.jpg,\n", "no tag at all"),
        ("image,tags,split\na.jpg,dog,spare\n", "line 2: split 'spare' must be train or val"),
        ("image,tags\nnone.jpg,dog\n", "no image"),
        ("image,tags\n../a.jpg,dog\n", "outside"),
        ("image,cat,dog\na.jpg,maybe,no\n", "no column 'tags'.*'maybe' in its column 'cat'"),
        ("image,cat,dog\na.jpg,2,0\n", "no column 'tags'.*'2' in its column 'cat'"),
        ("image,kind\na.jpg,x\nb.jpg,y\n", "no column 'tags'.*'y' in its column 'kind'"),
        ("sep=;\nimage;tags\n;dog\n", "line 3 names no image"),
        ("image,tags\na.jpg,\"['dog', 'cat'\"\n", r"line 2: '\['dog', .* cannot be read as one"),
        ("image,tags\na.jpg,\"{'dog': 1, 'cat': 0}\"\n", "line 2: .* cannot be read as one"),
        ("image,tags\na.jpg,[dog\n", "line 2: .* cannot be read as one"),
        ("image,tags\na.jpg,nan\n", "no tag at all"),
        ("image,tags\n,dog\n", "line 2 names no image"),
        ("image,tags,tags\na.jpg,dog,cat\n", "two columns 'tags'"),
        ("image,cat,dog,cat\na.jpg,1,0,0\n", "two columns 'cat'"),
        ("image,cat,dog\na.jpg,1,0\nb.jpg,0,1,1\n", "line 3 has more cells"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    (tmp_path / "tags.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_catalog("folder", tmp_path, "all")


def test_an_accented_letter_is_one_letter_however_it_is_written(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.jpg")
    text = "image,tags\na.jpg,caf\u00e9\nb.jpg,cafe\u0301\n"
    (tmp_path / "tags.csv").write_text(text, encoding="utf-8")
    for _ in range(2):
        catalog = read_catalog("folder", tmp_path, "all")
        assert catalog.classes == ("caf\u00e9",) and [r.tags for r in catalog.records] == [(0,), (0,)]
        (tmp_path / "classes.txt").write_text("cafe\u0301\n", encoding="utf-8")


def test_a_large_photographs_training_crops_are_as_smooth_as_what_is_predicted(tmp_path):
    stripes = np.zeros((1500, 2000, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255  # two pixels wide: below what 64 pixels can show
    Image.fromarray(stripes).save(tmp_path / "a.png")
    (tmp_path / "tags.csv").write_text("image,tags\na.png,stripes\n")
    catalog = read_catalog("folder", tmp_path, "all")
    for augment in (True, False):
        shown = TaggedImages(catalog, 64, augment)
        assert all(shown[0]["image"].float().std((1, 2)).max() < 25 for _ in range(4))


def test_split_keeps_every_class_in_both_parts(tmp_path):
    lines = [f"{index}.jpg,{'rare' if index < 10 else 'common'}" for index in range(100)]
    (tmp_path / "tags.csv").write_text("image,tags\n" + "\n".join(lines))
    splits = split_of(read_tag_table(tmp_path / "tags.csv", tmp_path))
    assert sum(splits[f"{index}.jpg"] == "val" for index in range(10)) == 2
    assert sum(split == "val" for split in splits.values()) == 20


def test_class_without_image_is_named(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "copy")
    (tmp_path / "copy" / "classes.txt").write_text("\n".join([*SYNTHETIC_CLASSES, "unicorn"]))
    with pytest.raises(UserError, match="unicorn"):
        TagData(str(tmp_path / "copy")).train_dataloader()


def test_predict_batches_cover_every_image_once(drawn):
    catalog = read_catalog("voc", drawn, "train")
    batches = SameShapeBatches(catalog, lambda height, width: (height, width), 5 * 64**2)
    items = [batches[index] for index in range(len(batches))]
    assert sorted(name for item in items for name in item["id"]) == [r.id for r in catalog.records]
    assert items[0]["image"].shape == (5, 3, 64, 64)


def test_large_photographs_are_predicted_at_the_size_seen_in_training(drawn):
    data = MaskData(str(drawn), crop=32, max_side=48, batch_size=3, num_workers=0)
    for batch in data.predict_dataloader():
        height, width = batch["image"].shape[-2:]
        assert max(height, width) <= 48 and len(batch["image"]) * height * width <= 3 * 32**2
        for name, size in zip(batch["path"], batch["size"], strict=True):
            assert Image.open(name).size[::-1] == tuple(size.tolist())


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


def test_mask_of_other_size_is_named(drawn, tmp_path):
    catalog = read_catalog("voc", drawn, "val")
    write_mask(tmp_path / "m.png", np.zeros((10, 10)))
    with pytest.raises(UserError, match=r"m\.png is 10x10 pixels.*64x64"):
        MaskedImages(catalog, [tmp_path / "m.png"] * 8, None, 1024)[0]


def test_training_crops_show_the_same_share_of_an_image_of_any_size(drawn):
    record = read_catalog("voc", drawn, "train").records[0]
    catalog = Catalog(SYNTHETIC_CLASSES, (record,))
    for crop in (32, 200):  # smaller and larger than the image of 64
        shown = MaskedImages(catalog, [record.mask], crop, max_side=0)
        inside = [(shown[0]["mask"] != VOID).float().mean().item() for _ in range(40)]
        # half a crop long: a quarter is image, the rest padding; two crops long: all is image
        assert 0.2 < min(inside) < 0.5 and max(inside) == 1
    assert MaskData(str(drawn), crop=320).max_side == 480


def test_training_on_missing_masks_is_refused(drawn, tmp_path):
    with pytest.raises(UserError, match="24 of 24 images have no mask"):
        MaskData(str(drawn), mask_dir=str(tmp_path)).train_dataloader()


def test_real_voc(voc_root):
    catalog = read_catalog("voc", voc_root, "train")
    assert len(catalog.classes) == 20
    for record in catalog.records[:20]:
        labels = set(np.unique(read_mask(record.mask, 21)).tolist()) - {0, 255}
        assert labels == {tag + 1 for tag in record.tags}
        assert read_image(record.image).shape[:2] == read_mask(record.mask).shape
