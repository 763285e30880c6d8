"""Reading data sets, images and masks; bad input is named."""

import io
import struct
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from odd_files import ON_ITS_SIDE, chunk, deep_png, deep_tiff, exif, photo
from PIL import Image

from wsss.data.catalog import read_catalog
from wsss.data.datasets import MaskedImages, SameShapeBatches, TaggedImages
from wsss.data.images import image_size, look, read_image, read_reduced
from wsss.data.masks import write_mask
from wsss.data.synthetic import draw_scene
from wsss.errors import UserError
from wsss.geometry import resize


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


@pytest.mark.parametrize("how", [1, 3, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_jpeg_is_decoded_as_small_as_will_do(form, mode, how, tmp_path):
    scene = Image.fromarray(draw_scene(np.random.default_rng(0), 40)[0]).resize((320, 240))
    tags = Image.Exif()
    tags[0x0112] = how
    scene = scene.convert(mode)
    several = {"save_all": True, "append_images": [scene]} if form == "MPO" else {}
    scene.save(tmp_path / "a.jpg", form, exif=tags, quality=95, **several)
    whole = read_image(tmp_path / "a.jpg")
    for times, reduced in ((0.5, 1), (1.9, 1), (2.1, 2), (3.9, 2), (4.1, 4), (7, 4), (9, 8)):
        spare = Mock(return_value=times)
        image, size = read_reduced(tmp_path / "a.jpg", spare)
        spare.assert_called_once_with(*size)
        assert size == whole.shape[:2] == ((320, 240) if how == 6 else (240, 320))
        assert image.shape == (size[0] // reduced, size[1] // reduced, 3)
        small = resize(whole, *image.shape[:2])
        apart = np.abs(image.astype(int) - small).mean()
        assert apart == 0 if reduced == 1 else apart < 3


def test_other_formats_are_read_whole(tmp_path):
    scene, _ = draw_scene(np.random.default_rng(0), 64)
    Image.fromarray(scene).save(tmp_path / "a.png")
    image, size = read_reduced(tmp_path / "a.png", lambda height, width: 8)
    assert size == (64, 64) and np.array_equal(image, scene)
    (tmp_path / "deep.png").write_bytes(deep_png(_ramp(4000)))
    image, size = read_reduced(tmp_path / "deep.png", lambda height, width: 8, 16383)
    assert size == (64, 64) and image.max() == 4000 * 255 // 16383


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
        tagged = TaggedImages(catalog, 64, min_scale=None)
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
from wsss.stages.jobs import read_image
from wsss.program import quiet_libraries
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
