"""What people and programs write into the cells of a table: names, lists, marks, splits."""

import re
import unicodedata

MISSING = {
    *("nan", "-nan", "none", "null", "na", "n/a", "<na>", "nat", "undefined", "pd.na", "np.nan"),
    *("nil", "\\n", "(null)", "<null>"),  # languages and databases
    *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    # a formula of a spreadsheet that found nothing
    *("#n/a", "#na", "#nv", "#n/d", "#ref!", "#bezug!", "#value!", "#wert!", "#name?", "#null!"),
    *("#div/0!", "#num!", "#zahl!"),
}
"""What pandas, R, NumPy, JSON, Excel and JavaScript write for an empty cell, in small letters."""

NOT_LOOKED_FOR = "?"
"""What a cell of marks says where nobody has looked whether a class is there."""

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""A split's name in small letters, in a column or of a list, -> the split."""

# beside Unicode's format and control characters (\N{ZERO WIDTH SPACE} and the like): fillers and
# variation selectors, which have no picture of their own either
_FILLERS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0]")

# spreadsheets write booleans in the user's language
_YES = {"true", "t", "yes", "y", "x", "+", "✓", "✔"}
_YES |= {"wahr", "ja", "vrai", "oui", "verdadero", "sí", "vero"}
_NO = {"", "false", "f", "no", "n", "-", "falsch", "nein", "faux", "non", "falso"}
_LETTERS = ({"x"}, {"y", "n"}, {"t", "f"})

_BARE = r"""[^\s,;|'"\\\[\](){}][^,;|'"\\\[\](){}]*"""
# one item of a list with what ends it; NumPy prints no commas, and a type before each item
_ITEM = re.compile(
    r"(?:(?:np\.str_\()?[ub]?"
    r"(?:'(?P<single>(?:[^'\\]|\\.)*)'|\"(?P<double>(?:[^\"\\]|\\.)*)\")\)?(?:\s*[,;|]\s*|\s+|$)"
    rf"|(?P<bare>{_BARE})(?:[,;|]\s*|$))",
    re.DOTALL,
)
_TYPED = re.compile(r"\w+\(\s*([\[({].*[\])}])\s*(?:,\s*\w+=[^\])}]+)*\)", re.DOTALL)
_OF_R = re.compile(r"(?:c|list)(\(\s*[\"'].*\))", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_CUT = ("...", "\u2026")  # how a long list is printed: what was there is lost
_EMPTY = ("set()", "frozenset()", "character(0)", "list()", "c()")
# what word processors and spreadsheets turn quotes into
_CURLY = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a", "'") | dict.fromkeys("\u201c\u201d\u201e", '"')
)


def clean(text: str) -> str:
    """A name without what cannot be seen: no zero-width characters, plain spaces, none around it.

    An accented letter, which can be written as one sign or as two that look the same, is one.
    """
    if text.isascii() and text.isprintable():  # most are, and a large table has many
        return text.strip()
    shown = "".join(" " if sign.isspace() else sign for sign in text if not _no_width(sign))
    return unicodedata.normalize("NFC", shown).strip()


def hidden(text: str) -> bool:
    """Whether there is more in a text than can be seen: zero-width characters, other spaces."""
    if text.isascii() and text.isprintable():
        return False
    return any(_no_width(sign) or (sign.isspace() and sign not in " \t\n") for sign in text.strip())


def shown(text: str, most: int = 60) -> str:
    """A text between quotes, with its hidden characters as codes, cut where it is long."""
    signs = (f"\\u{ord(sign):04x}" if hidden(f".{sign}.") else sign for sign in text)
    told = " ".join("".join(signs).split())
    return f"'{told}'" if len(told) <= most else f"'{told[:most]}...'"


def _no_width(sign: str) -> bool:
    if sign.isspace():
        return False
    return unicodedata.category(sign) in ("Cf", "Cc") or _FILLERS.match(sign) is not None


def missing(name: str) -> bool:
    """Whether a name is what programs write for an empty cell."""
    return name.casefold() in MISSING


def mark(text: str) -> bool | None:
    """What a cell says of a class: 1, 1.0, TRUE, yes, x or 0, false, no, empty; None: neither."""
    word = clean(text).casefold()
    if word in _YES or word in _NO:
        return word in _YES
    if missing(word):
        return False
    try:
        return {0.0: False, 1.0: True}.get(float(word.replace(",", ".")))
    except ValueError:
        return None


def denied(text: str) -> bool:
    """Whether a cell says by a word that a class is not there: 0, no, -; an empty one does not."""
    word = clean(text)
    return bool(word) and not missing(word) and mark(word) is False


def no_mark(texts: list[str]) -> str | None:
    """The first text that keeps a column from being one of marks, or None.

    A column of x and y holds two classes and not two ways to say yes: single letters belong together.
    """
    letters: set[str] = set()
    for text in texts:
        word = clean(text).casefold()
        if word == NOT_LOOKED_FOR:
            continue
        letters |= {word} & set().union(*_LETTERS)
        if mark(text) is None or not any(letters <= pair for pair in _LETTERS):
            return text
    return None


def listed(text: str) -> list[str] | None:
    """The items of a list as Python, NumPy or JSON print it; None: the text is no list.

    Raises:
        ValueError: it begins as a printed list and cannot be read as one.
    """
    if text in _EMPTY:
        return []
    if re.match(r"[\[({]+\s*[\u2018-\u201e]", text):
        text = text.translate(_CURLY)
    if (inner := unquoted(text)) and inner[0] in _CLOSING:  # printed, and printed again
        return listed(_unescaped(inner))
    if typed := _TYPED.fullmatch(text) or _OF_R.fullmatch(text):
        text = typed[1]
    quoted = re.match(r"[\[({]+\s*\\*(?:np\.str_\()?[ub]?['\"]", text) is not None
    if len(text) > 1 and text[-1] == _CLOSING.get(text[0]):
        inner = text[1:-1].strip()
        # a name may lie between round brackets, a list of Python has quotes there
        items = _items(inner) if quoted or text[0] != "(" or not inner else None
        if items is not None:
            return items
    lost = text.startswith("[") and ("]" not in text or any(cut in text for cut in _CUT))
    if quoted or lost:
        raise ValueError(text)
    return None


def unquoted(name: str) -> str | None:
    """What is between the quotes around a text; None: there are none."""
    plain = name.translate(_CURLY)
    quoted = len(name) > 2 and plain[0] == plain[-1] and plain[0] in "'\""
    return name[1:-1].strip() if quoted else None


def _items(inner: str) -> list[str] | None:
    items, place = [], 0
    while place < len(inner):
        item = _ITEM.match(inner, place)
        if item is None:
            return None
        place = item.end()
        text = item["single"] if item["single"] is not None else item["double"]
        if item["bare"] in _CUT:
            return None
        items.append(item["bare"] if text is None else _unescaped(text))
    return items


def _unescaped(text: str) -> str:
    def sign(match: re.Match) -> str:
        code = match[1] or match[2] or match[3]
        return chr(int(code, 16)) if code else {"n": "\n", "t": "\t", "r": "\r"}.get(match[4], match[4])

    # JSON writes what lies beyond 16 bits as two codes
    pairs = _ESCAPE.sub(sign, text).encode("utf-16-le", "surrogatepass")
    return pairs.decode("utf-16-le", "replace")
