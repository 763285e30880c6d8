"""Tables of tags as people and their programs write them."""

import json
from pathlib import Path

import pytest
from odd_files import photo

from wsss.data.catalog import read_catalog, read_classes
from wsss.data.cells import clean
from wsss.data.check import check
from wsss.data.tags import read_tag_table
from wsss.errors import UserError, UserNotice, forget_notices

FORMS = {
    "space": ("tags.csv", "image,tags\na.jpg,cat dog\nb.jpg,\n"),
    "comma": ("tags.csv", 'image,tags\na.jpg,"cat,dog"\nb.jpg,\n'),
    "bare comma": ("tags.csv", "image,tags\na.jpg,cat,dog\nb.jpg,\n"),
    "semicolon": ("tags.csv", "image,tags\na.jpg,cat;dog\nb.jpg,\n"),
    "pipe": ("tags.csv", "image,tags\na.jpg,cat|dog\nb.jpg,\n"),
    "columns by semicolon": ("tags.csv", "image;tags;split\na.jpg;cat, dog;train\nb.jpg;;train\n"),
    "columns by tab": ("tags.csv", "image\ttags\na.jpg\tcat;dog\nb.jpg\t\n"),
    "0/1 by semicolon": ("tags.csv", "image;cat;dog;cow\na.jpg;1;1;0\nb.jpg;0;0;0\n"),
    "rows of separators": ("tags.csv", "image,tags\na.jpg,cat|dog\n,\nb.jpg,\n , ,\n"),
    "names of columns as people write them": (
        "tags.csv",
        "Image; Tags ;SPLIT\na.jpg;cat|dog;train\nb.jpg;;\n",
    ),
    "columns": ("tags.csv", "image,cat,dog,cow\na.jpg,1,1,0\nb.jpg,0,0,0\n"),
    "json": ("tags.json", '{"a.jpg": ["cat", "dog"], "b.jpg": []}'),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_tags(form, tmp_path):
    name, text = FORMS[form]
    (tmp_path / name).write_text(text)
    for number, image in enumerate("ab"):
        photo(number).save(tmp_path / f"{image}.jpg")
    rows = read_tag_table(tmp_path / name, tmp_path).rows
    assert [(row.image, row.tags) for row in rows] == [("a.jpg", ("cat", "dog")), ("b.jpg", ())]
    assert read_classes("folder", tmp_path) == ("cat", "dog")
    assert [r.tags for r in read_catalog("folder", tmp_path, "all").records] == [(0, 1), ()]


def test_class_names_with_spaces_between_bare_commas(tmp_path):
    (tmp_path / "tags.csv").write_text("image,tags\na.jpg,polar bear,dog\nb.jpg,\n")
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path).rows
    assert [row.tags for row in rows] == [("polar bear", "dog"), ()]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("tags.json", '["a.jpg"]', "must be like"),
        ("tags.json", '{"a.jpg": "cat"}', "must be like"),
        ("tags.json", '{"a.jpg": ["cat"], "a.jpg": ["dog"]}', "twice"),
        ("tags.json", "{", "not readable JSON"),
        ("tags.csv", "image,cat\na.jpg,perhaps\n", "no column 'tags'"),
        ("tags.csv", 'image,tags\na.jpg,cat\nb.jpg,"cat\nc.jpg,dog\n', "line 3 .* not closed"),
        ("tags.csv", 'image,tags\na.jpg,"cat' + 5000 * "\na-long-name-of-a-file.jpg,dog", "not closed"),
    ],
)
def test_bad_tables_are_named(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_tag_table(tmp_path / name, tmp_path)


def _notices(told) -> str:
    return "\n".join(str(one.message) for one in told)


LISTS = {
    "Python": """['big dog', 'cat']""",
    "Python, one with an apostrophe": """["big dog", 'cat']""",
    "JSON": """["big dog", "cat"]""",
    "JSON of codes": r"""["big\u0020dog", "c\u0061t"]""",
    "tuple": """('big dog', 'cat')""",
    "set": """{'big dog', 'cat'}""",
    "NumPy": """['big dog' 'cat']""",
    "NumPy on several lines": """['big dog'\n 'cat']""",
    "NumPy 2": """[np.str_('big dog'), np.str_('cat')]""",
    "NumPy's repr": """array(['big dog', 'cat'], dtype='<U7')""",
    "Python 2": """[u'big dog', u'cat']""",
    "names alone": """[big dog, cat]""",
    "a comma at the end": """['big dog', 'cat',]""",
    "curly quotes": """[\N{LEFT SINGLE QUOTATION MARK}big dog\N{RIGHT SINGLE QUOTATION MARK}, “cat”]""",
    "printed twice": """"['big dog', 'cat']\"""",
    "JSON printed twice": r'''"[\"big dog\", \"cat\"]"''',
    "R": """c("big dog", "cat")""",
    "pandas' index": """Index(['big dog', 'cat'], dtype='object', name='tag')""",
    "with what is none": """['big dog', nan, None, 'cat']""",
}


# without quotes the commas within the list fall between columns, and its lines between rows
WAYS = [(form, delimiter) for form in LISTS for delimiter in (",", ";", "\t")]
WAYS += [(form, "no quotes") for form, text in LISTS.items() if not {"\n", "\\"} & set(text)]


@pytest.mark.parametrize(("form", "delimiter"), WAYS)
def test_printed_lists_are_lists(form, delimiter, tmp_path):
    text = LISTS[form]
    if delimiter == "no quotes":
        delimiter = ","
    else:
        text = '"' + text.replace('"', '""') + '"'
    lines = [f"a.jpg{delimiter}{text}", f"b.jpg{delimiter}[]", f"c.jpg{delimiter}horse"]
    (tmp_path / "tags.csv").write_text("\n".join([f"image{delimiter}tags", *lines]))
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path, odd=(odd := {})).rows
    assert [row.tags for row in rows] == [("big dog", "cat"), (), ("horse",)]
    assert len(odd["read as a list of tags"]) == 2 and "line " in odd["read as a list of tags"][0]
    with pytest.warns(UserNotice, match=r"tags\.csv: read as a list of tags: line "):
        read_tag_table(tmp_path / "tags.csv", tmp_path)


def test_a_list_beside_plain_cells_leaves_their_separator(tmp_path):
    (tmp_path / "tags.csv").write_text("image;tags\na.jpg;['big dog', 'cat']\nb.jpg;cat horse\n")
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path, odd={}).rows
    assert [row.tags for row in rows] == [("big dog", "cat"), ("cat", "horse")]


def test_a_printed_list_in_json(tmp_path):
    tags = {"a.jpg": ["['big dog', 'cat']"], "b.jpg": ["[]"], "c.jpg": ["horse"]}
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    with pytest.warns(UserNotice, match="read as a list of tags: entry 1"):
        rows = read_tag_table(tmp_path / "tags.json", tmp_path).rows
    assert [row.tags for row in rows] == [("big dog", "cat"), (), ("horse",)]


@pytest.mark.parametrize("text", ["['cat', ..., 'dog']", "[cat, ..., dog]", "['cat' 'do…"])
def test_a_list_that_was_cut_is_refused(text, tmp_path):
    (tmp_path / "tags.csv").write_text(f'image,tags\na.jpg,"{text}"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"tags\.csv line 2: .*cannot be read as one"):
        read_tag_table(tmp_path / "tags.csv", tmp_path)


def test_quotes_around_names_are_no_part_of_them(tmp_path):
    text = "image;tags\na.jpg;'big dog', 'cat'\nb.jpg;“horse”\nc.jpg;'nan'\nd.jpg;l'eau\n"
    (tmp_path / "tags.csv").write_text(text, encoding="utf-8")
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path, odd=(odd := {})).rows
    assert [row.tags for row in rows] == [("big dog", "cat"), ("horse",), (), ("l'eau",)]
    assert len(odd["read without the quotes around it"]) == 4


def test_a_split_under_another_name_is_told(tmp_path):
    (tmp_path / "tags.csv").write_text("image,tags,subset,place\na.jpg,cat,Train,x\nb.jpg,dog,,y\n")
    with pytest.warns(UserNotice, match=r"seem to be the split, not used .*: 'subset'$"):
        read_tag_table(tmp_path / "tags.csv", tmp_path)


MISSING = ["nan", "NaN", "None", "null", "NULL", "NA", "<NA>", "#N/A", "#REF!", r"\N", "1.#QNAN"]


PLACES = ["cell", "among others", "mark", "json", "folder"]


# a folder cannot be called so
NAMED = [(p, w) for p in PLACES for w in MISSING if p != "folder" or not {"/", "\\"} & set(w)]


@pytest.mark.parametrize(("form", "word"), NAMED)
def test_what_programs_write_for_nothing_is_no_class(form, word, tmp_path):
    texts = {
        "cell": f"image,tags\na.jpg,cat\nb.jpg,{word}\n",
        "among others": f"image,tags\na.jpg,cat|{word}\nb.jpg,\n",
        "mark": f"image,cat,dog\na.jpg,1.0,{word}\nb.jpg,0.0,0.0\n",
    }
    root = tmp_path
    names = ["a.jpg", "b.jpg"]
    if form == "folder":
        root, names = tmp_path / "by class", ["cat/a.jpg", f"{word}/b.jpg"]
    elif form == "json":
        (tmp_path / "tags.json").write_text(json.dumps({"a.jpg": ["cat"], "b.jpg": [word]}))
    else:
        (tmp_path / "tags.csv").write_text(texts[form])
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(root / name)
    with pytest.warns(UserNotice) as told:
        catalog = read_catalog("folder", root, "all")
    assert catalog.classes == ("cat",)
    assert {record.id: record.tags for record in catalog.records} == {
        Path(names[0]).with_suffix("").as_posix(): (0,),
        Path(names[1]).with_suffix("").as_posix(): (),
    }
    place = {"folder": f"folder {word}", "json": "entry 2", "cell": "line 3"}.get(form, "line 2")
    assert "read as an empty cell: " + place in _notices(told) and f"'{word}'" in _notices(told)
    found = check(root).warnings["read as an empty cell"]
    assert len(found) == 1 and found[0].startswith(place)


def test_null_and_nan_of_json_are_no_tags(tmp_path):
    (tmp_path / "tags.json").write_text('{"a.jpg": ["cat", null], "b.jpg": null, "c.jpg": NaN}')
    rows = read_tag_table(tmp_path / "tags.json", tmp_path, odd=(odd := {})).rows
    assert [row.tags for row in rows] == [("cat",), (), ()]
    assert odd == {
        "read as an empty cell": ["entry 1: 'null'", "entry 2: 'null'", "entry 3: 'NaN'"],
    }


ODD_SIGNS = [
    "\u200b",
    "\ufeff",
    "\u200d",
    "\u2060",
    "\u00ad",
    "\u200e",
    "\u202a",
    "\x07",
    "\u180e",
    "\ufe0f",
]


@pytest.mark.parametrize("sign", ODD_SIGNS)
@pytest.mark.parametrize("form", ["tags", "list", "columns", "json", "folder", "classes.txt"])
def test_characters_without_width_are_dropped_and_told(form, sign, tmp_path):
    root = tmp_path / "root"
    names = ["a.jpg", "b.jpg"]
    name = f"{sign}c{sign}at{sign}"
    if form == "folder":
        names = ["cat/a.jpg", f"{name}/b.jpg"]
    for number, file in enumerate(names):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(root / file)
    texts = {
        "tags": f"image,tags\na.jpg,cat\nb.jpg,dog|{name}\n",
        "list": f"image,tags\na.jpg,cat\nb.jpg,\"['{name}', 'dog']\"\n",
        "columns": f"image,{name},dog\na.jpg,1,0\nb.jpg,1,1\n",
        "classes.txt": "image,tags\na.jpg,cat\nb.jpg,cat|dog\n",
    }
    if form == "json":
        (root / "tags.json").write_text(json.dumps({"a.jpg": ["cat"], "b.jpg": [name, "dog"]}))
    elif form != "folder":
        (root / "tags.csv").write_text(texts[form], encoding="utf-8")
    if form == "classes.txt":
        (root / "classes.txt").write_text(f"dog\n{name}\n", encoding="utf-8")
    with pytest.warns(UserNotice, match="cannot be seen") as told:
        classes = read_classes("folder", root)
    assert sorted(classes) == (["cat"] if form == "folder" else ["cat", "dog"])
    assert (f"\\u{ord(sign):04x}at" in _notices(told)) or sign == "\ufeff"
    forget_notices()
    if form == "classes.txt":
        with pytest.warns(UserNotice, match="cannot be seen"):
            report = check(root)
    else:
        report = check(root)
        assert len(next(v for k, v in report.warnings.items() if "cannot be seen" in k)) == 1
    assert report.classes["cat"] == 2 and not report.errors


def test_every_space_is_a_space(tmp_path):
    text = "image,tags\na.jpg,polar\u00a0bear|\u3000dog\u00a0\nb.jpg,polar bear|dog\n"
    (tmp_path / "tags.csv").write_text(text, encoding="utf-8")
    one, other = read_tag_table(tmp_path / "tags.csv", tmp_path, odd={}).rows
    assert one.tags == other.tags == ("polar bear", "dog")
    assert clean(" polar\u2009bear\t") == "polar bear"


def test_names_of_files_keep_what_the_files_have(tmp_path):
    real = "3.45\u202fPM.jpg"  # as a Mac names what it takes of its screen
    photo(1).save(tmp_path / real)
    photo(2).save(tmp_path / "b.jpg")
    text = f"image,tags\n{real},cat\n\u200bb.jpg\u200b,dog\n"
    (tmp_path / "tags.csv").write_text(text, encoding="utf-8")
    with pytest.warns(UserNotice, match=r"line 3: '\\u200bb\.jpg\\u200b'"):
        rows = read_tag_table(tmp_path / "tags.csv", tmp_path).rows
    assert [row.image for row in rows] == [real, "b.jpg"]


@pytest.mark.parametrize(
    "yes, no",
    [
        ("TRUE", "FALSE"),
        ("true", "False"),
        ("1.0", "0.0"),
        ("1,0", "0,0"),
        ("1", ""),
        ("x", ""),
        (" X ", " "),
        ("yes", "no"),
        ("Y", "n"),
        ("WAHR", "FALSCH"),
        ("VRAI", "FAUX"),
        ("\N{CHECK MARK}", "-"),
        ("1\N{NO-BREAK SPACE}", "0"),
    ],
)
@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_marks_in_a_column_for_each_class(yes, no, delimiter, tmp_path):
    def line(*cells):
        return delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in cells)

    lines = [line("a.jpg", yes, no, yes), line("b.jpg", no, yes, no), line("c.jpg", no, no, no)]
    text = "\n".join([line("Image", "big dog", "cat", "horse"), *lines])
    (tmp_path / "tags.csv").write_text(text, encoding="utf-8")
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path).rows
    assert [row.tags for row in rows] == [("big dog", "horse"), ("cat",), ()]


SPREADSHEETS = {
    "Excel's sep line": "sep=;\r\nimage;tags\r\na.jpg;cat,big dog\r\nb.jpg;\r\n",
    "sep line in capitals, between quotes": '"SEP=;"\nimage;tags\na.jpg;cat,big dog\nb.jpg;\n',
    "sep line with spaces": "sep = ;\nimage;tags\na.jpg;cat,big dog\nb.jpg;\n",
    "sep line filled up": "sep=;;\nimage;tags\na.jpg;cat,big dog\nb.jpg;\n",
    "sep line of a comma": 'sep=,\nimage,tags\na.jpg,"cat;big dog"\nb.jpg,\n',
    "sep line of a tab": "sep=\t\nimage\ttags\na.jpg\tcat,big dog\nb.jpg\t\n",
    "sep line of a bar": "sep=|\nimage|tags\na.jpg|cat,big dog\nb.jpg|\n",
    "sep line that is wrong": "sep=,\nimage;tags\na.jpg;cat,big dog\nb.jpg;\n",
    "byte-order mark behind the sep line": 'sep=;\n\ufeff"image";"tags"\na.jpg;cat,big dog\nb.jpg;\n',
    "byte-order marks of joined files": "image;tags\na.jpg;cat,big dog\n\ufeffb.jpg;\n",
    "all between quotes": '"image";"tags"\r\n"a.jpg";"cat|big dog"\r\n"b.jpg";""\r\n',
    "a comma in the first line's quotes": 'tags;"notes, if any";image\ncat|big dog;;a.jpg\n;;b.jpg\n',
    "capitals": "IMAGE,TAGS\na.jpg,cat|big dog\nb.jpg,\n",
    "blank lines before": "\n,\nimage,tags\na.jpg,cat|big dog\nb.jpg,\n",
    "blank columns": "image,tags,,\na.jpg,cat|big dog,,\nb.jpg,,,\n",
    "blank columns of marks": "image,cat,big dog,,\na.jpg,1,1,,\nb.jpg,0,0,,\n",
    "separators at the end": "image,tags\na.jpg,cat|big dog,\nb.jpg,,\n",
    "separators at the end of marks": "image,cat,big dog\na.jpg,1,1,\nb.jpg,0,0,\n",
    "one tag a column": "image,tags,,\na.jpg,cat,big dog,\nb.jpg,,,\n",
    "one tag a column, as pandas names them": "image,tags,Unnamed: 2\na.jpg,cat,big dog\nb.jpg,,\n",
    "pandas' index": ",image,tags\n0,a.jpg,cat|big dog\n1,b.jpg,\n",
    "lines that end as on an old Mac": "image;tags\ra.jpg;cat|big dog\rb.jpg;\r",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("form", SPREADSHEETS)
def test_tables_of_spreadsheets(form, encoding, tmp_path):
    text = SPREADSHEETS[form]
    if encoding == "utf-16-be":
        text = "\ufeff" + text
    (tmp_path / "tags.csv").write_bytes(text.encode(encoding))
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path, odd=(odd := {})).rows
    assert [(row.image, row.tags) for row in rows] == [("a.jpg", ("cat", "big dog")), ("b.jpg", ())]
    assert not odd


@pytest.mark.parametrize("first", ["", "Unnamed: 0"])
def test_a_column_without_a_name_is_no_class(first, tmp_path):
    (tmp_path / "tags.csv").write_text(
        f"{first},image,cat,dog\n0,a.jpg,1,1\n1,b.jpg,0,1\n7,c.jpg,0,0\n"
    )
    with pytest.warns(UserNotice, match="columns without a name, passed over: column 1"):
        rows = read_tag_table(tmp_path / "tags.csv", tmp_path).rows
    assert [row.tags for row in rows] == [("cat", "dog"), ("dog",), ()]


def test_names_with_spaces_before_a_separator_at_the_end(tmp_path):
    (tmp_path / "tags.csv").write_text("image,tags\na.jpg,polar bear,\nb.jpg,dog,\n")
    rows = read_tag_table(tmp_path / "tags.csv", tmp_path).rows
    assert [row.tags for row in rows] == [("polar bear",), ("dog",)]


@pytest.mark.parametrize("content", ["café".encode("cp1252"), b"c\0a\0t\0", b"\xff\xfec"])
def test_text_of_another_encoding_is_named(content, tmp_path):
    (tmp_path / "tags.csv").write_bytes(b"image,tags\na.jpg," + content)
    if content.startswith(b"\xff"):
        (tmp_path / "tags.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"tags\.csv is not UTF-8 text .*: save it as UTF-8"):
        read_tag_table(tmp_path / "tags.csv", tmp_path)
