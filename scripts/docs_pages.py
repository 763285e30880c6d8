"""Pages that are made when the site is built (mkdocs.yml): of README, notes, parsers and docstrings.

A document has one home in the repository, where its links work on a code host. Here links become those
of the site, names of Python in backticks links to the reference, and LaTeX becomes MathML.
"""

import argparse
import html
import importlib
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

import wsss
from wsss import cli, lightning_cli, pipeline
from wsss.stages.config import Kind, _settings_parser

PROJECT = Path(__file__).parents[1]
FROM = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files outside docs that are pages; those in experiments are, too, and its README their index."""

MADE = {"wsss/__init__.py": "reference/api.md"}
"""What a page is made of, for links to it."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
NAME = re.compile(r"(?<![`\[])`(wsss(?:\.\w+)+)`(?![`\]])")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add what is not in docs."""
    for source, page in sources().items():
        files.append(File.generated(config, page, abs_src_path=str(PROJECT / source)))
    made = {"reference/api.md": api, "reference/cli.md": command_line, "reference/config.md": settings}
    for page, make in made.items():
        files.append(File.generated(config, page, content=make()))
    for page, text in code():
        files.append(File.generated(config, page, content=text))
    return files


def sources() -> dict[str, str]:
    """File of the repository -> its place in the site, of those outside docs."""
    found = dict(FROM)
    for path in sorted((PROJECT / "experiments").rglob("*")):
        if path.suffix in (".md", ".csv"):
            name = path.relative_to(PROJECT).as_posix()
            found[name] = name.replace("README.md", "index.md")
    return found


# documents


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the site, and names of Python as links, outside blocks of code."""
    uri = page.file.src_uri
    if uri.startswith("reference/"):
        return markdown
    known = sources() | MADE
    home = {page: source for source, page in known.items()}.get(uri, f"docs/{uri}")

    def link(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        path, sign, anchor = target.partition("#")
        if not path or ":" in path:
            return found[0]
        source = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
        place = known.get(source) or source.removeprefix("docs/")
        if files.get_file_from_path(place) is None:
            # of code there is no page; what is not there at all is left to mkdocs, which says so
            return text if (PROJECT / source).exists() and not picture else found[0]
        return f"{picture}[{text}]({posixpath.relpath(place, posixpath.dirname(uri))}{sign}{anchor})"

    def translated(text: str) -> str:
        return NAME.sub(lambda name: f"[`{name[1]}`][{canonical(name[1])}]", LINK.sub(link, text))

    blocks = [block[0] for block in FENCE.finditer(markdown)]
    texts = map(translated, FENCE.split(markdown))
    return "".join(text + block for text, block in zip(texts, [*blocks, ""], strict=True))


def canonical(name: str) -> str:
    """Where what `import wsss` gives is documented."""
    first, _, rest = name.removeprefix("wsss.").partition(".")
    if first in wsss.__all__ and not first.startswith("_"):
        found = getattr(wsss, first)
        return f"{found.__module__}.{found.__qualname__}{'.' * bool(rest)}{rest}"
    return name


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """LaTeX as MathML, which browsers draw without a script."""

    def drawn(found: re.Match[str]) -> str:
        latex = html.unescape(found[2]).strip().removeprefix("\\(").removeprefix("\\[")
        display = "block" if found[1] == "div" else "inline"
        return convert(latex.removesuffix("\\)").removesuffix("\\]").strip(), display=display)

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', drawn, content, flags=re.DOTALL)


# the reference


def api() -> str:
    """What `import wsss` gives."""
    head = "# Python API\n\nWhat `import wsss` gives. [How to use it](../how-to/python.md)."
    return "\n\n".join([head, *(described(name, show_root_full_path=False) for name in public())])


def public() -> list[str]:
    """Names that `import wsss` gives, where they are documented."""
    return [canonical(f"wsss.{name}") for name in wsss.__all__ if not name.startswith("_")]


def described(name: str, **options: Any) -> str:
    """What mkdocstrings puts its description in the place of."""
    return f"::: {name}\n    options: {json.dumps(options | {'heading_level': 2})}"


def code() -> Iterator[tuple[str, str]]:
    """A page for each room (docs/architecture.md), and one for the modules that stand alone."""
    rooms: dict[str, list[str]] = {}
    for path in sorted((PROJECT / "wsss").rglob("*.py")):
        parts = path.relative_to(PROJECT).with_suffix("").parts
        if parts[-1].startswith("__"):
            parts = parts[:-1]
        if len(parts) > 1:
            room = parts[1] if (PROJECT / "wsss" / parts[1]).is_dir() else "others"
            rooms.setdefault(room, []).append(".".join(parts))
    links = [f"- [`wsss.{room}`]({room}.md)" for room in sorted(rooms.keys() - {"others"})]
    about = "[Architecture](../../architecture.md) says what each room is for."
    title = f"# All modules\n\nFor whoever works on wsss. {about}\n"
    yield "reference/code/index.md", "\n".join([title, *links, "- [the others](others.md)", ""])
    for room, modules in rooms.items():
        head = "# Modules that stand alone" if room == "others" else f"# wsss.{room}"
        text = [described(module, filters=["!^_", *elsewhere(module)]) for module in modules]
        yield f"reference/code/{room}.md", "\n\n".join([head, *text])


def elsewhere(module: str) -> list[str]:
    """Filters of what of a module is on the page of the API."""
    names = [name.rpartition(".") for name in public()]
    return [f"!^{name}$" for room, _, name in names if room == module]


def command_line() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "80"  # argparse's width
    parts = [
        "# Command line",
        block(cli.USAGE),
        "## wsss classify, wsss segment",
        "Each setting of the [config reference](config.md) is an option, too: `--model.lr 1e-4`, "
        "`--data.size 320`, `--trainer.max_epochs 10`. `wsss classify fit --help` lists them.",
    ]
    for kind, words in lightning_cli.COMMANDS.items():
        parts += [f"- `wsss {kind} {word} -c CONFIG.yaml`" for word in words]
    for command in sorted(cli._COMMANDS):
        name = f"{command}_" if command == "import" else command
        module = importlib.import_module(f"wsss.commands.{name}")
        parser = argparse.ArgumentParser(prog=f"wsss {command}")
        module.add_arguments(parser)
        parts += list(helps(parser))
    return "\n\n".join(parts).replace("`\n\n- `", "`\n- `") + "\n"


def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A heading and the help of a parser, and of those of its sub-commands."""
    yield f"## {parser.prog}"
    yield block(parser.format_help())
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from helps(one)


def block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


def settings() -> str:
    """Every key of the config files, as the parsers know them."""
    parts = [
        "# Config files",
        "A key stands under its group: `model: {lr: 1.0e-4}`. What is left out has its default, "
        "and `null` is no value.",
        "## pipeline.yaml",
        "The files of the stages are named relative to it. "
        "[`run_pipeline`][wsss.pipeline.run_pipeline] says what they do.",
        table(
            ("key", ""),
            [(f"`{key}`", "must be there") for key in sorted(pipeline.KEYS)]
            + [(f"`{key}`", "may be there") for key in sorted(pipeline.OPTIONAL)],
        ),
    ]
    kinds: dict[Kind, str] = {"classify": "pseudo_masks.yaml", "segment": "refine.yaml"}
    for kind, masks in kinds.items():
        parser = _settings_parser(kind, True)
        for group in ("model", "data", "masks"):
            files = f"{kind}.yaml and {masks}" if group == "data" else masks
            title = f"{kind}.yaml" if group == "model" else files
            parts += [f"## `{group}` of {title}", keys(parser, group)]
    parts += [
        "## `trainer` of all stages",
        "Those of Lightning's `Trainer`, with defaults of wsss.",
        keys(_settings_parser("classify", False), "trainer"),
        "## `crf`",
        "[`CRFSettings`][wsss.settings.CRFSettings] lists its keys.",
        "## Beside the groups",
        "`seed_everything`: the random seed of a training, 0 by default.",
    ]
    return "\n\n".join(parts) + "\n"


def keys(parser: Any, group: str) -> str:
    """A table of the settings of a group."""
    rows = []
    for action in parser._actions:
        kind = getattr(action, "_typehint", None)
        if action.dest.startswith(f"{group}.") and not action.dest.endswith(".help"):
            default = parser.get_defaults().get(action.dest)
            shown = "its defaults" if hasattr(default, "init_args") else written(default)
            about = " ".join((action.help or "").split())
            rows.append((f"`{action.dest.partition('.')[2]}`", type_name(kind), shown, about))
    return table(("key", "type", "default", "meaning"), rows)


def written(value: Any) -> str:
    """A default as YAML has it."""
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def type_name(kind: Any) -> str:
    """A type as a user of YAML knows it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, inner))
    if origin is Literal:
        return ", ".join(map(str, inner))
    if inner:
        return f"{origin.__name__}[{', '.join(map(type_name, inner))}]"
    known = {NoneType: "null", Ellipsis: "..."}
    return known.get(kind) or getattr(kind, "__name__", str(kind))


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as Markdown."""
    lines = [heads, ("---",) * len(heads), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
