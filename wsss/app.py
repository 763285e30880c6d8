"""The page of `wsss app RUN`: a photograph's tags, maps, slots and masks, and images by quality.

It also serves the page of projects (`wsss.project_page`). The one place that imports Gradio, an
optional dependency (the extra `app`). Nothing leaves this machine: no analytics, no sharing, no fonts
or scripts from elsewhere.
"""

import html
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss.data.masks import write_mask
from wsss.errors import UserError, install
from wsss.explore import (
    ORDERS,
    Analysis,
    Entry,
    Run,
    areas,
    heat_picture,
    mask_picture,
    shown,
    slots_picture,
)
from wsss.voc import palette

PER_PAGE = 24
CLICK = "Click into the photograph to see which slots that position belongs to, and their reach."
LARGEST_FILE = 100 * 2**20
"""Bytes of a photograph that is uploaded to a run."""

LARGEST_POST = 2**20
"""Bytes of any other post: values of the page's controls."""

# the browser itself refuses what a page of a later Gradio might want from elsewhere
_ONLY_FROM_HERE = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'"
)
_CSS = """
.legend span { display: inline-block; margin: 0 1em .2em 0; white-space: nowrap }
.legend i { display: inline-block; width: 1em; height: 1em; margin-right: .4em; border: 1px solid #888;
  vertical-align: -2px }
.gallery .grid-wrap { max-height: none; min-height: 0; height: auto; overflow: visible }
.gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) !important }
.large .grid-container { grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)) !important }
pre.said { white-space: pre-wrap; font-size: .85em; max-height: 30em; overflow: auto; margin: 0 }
#note p, #problem p { color: var(--error-text-color, #b91c1c); margin: 0 }
pre.log { max-height: 12em; display: flex; flex-direction: column-reverse }
.stages { margin: 0 0 .6em; padding: 0; list-style: none }
.stages li { display: inline-block; margin-right: 1.4em }
.stages .todo { opacity: .6 }
#status progress { width: 100%; height: .8em; appearance: none; border: 0; background: #8884 }
#status progress::-webkit-progress-bar { background: #8884 }
#status progress::-webkit-progress-value { background: var(--primary-500, #f97316) }
#status progress::-moz-progress-bar { background: var(--primary-500, #f97316) }
#results a { margin-right: 1.4em; text-decoration: underline }
footer { display: none !important }
"""


def gradio() -> Any:
    """Gradio, told to keep to this machine.

    Raises:
        UserError: it is not installed.
    """
    # read when Gradio is imported
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError(f"the page needs Gradio ({error}): {install('app')}") from error
    return gr


class Page:
    """What happens on the page; one for all of its visitors, their photographs are kept apart.

    Args:
        run: the run to look at.
        folder: for the masks to download.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder, self.gr = run, folder, gradio()

    def told(self, work: Any, *args: Any) -> Any:
        """Do the work; a UserError becomes a message on the page."""
        try:
            return work(*args)
        except UserError as error:
            # Gradio shows the message as HTML
            message = html.escape(str(error))
            raise self.gr.Error(message, duration=None, print_exception=False) from error

    def upload(self, path: str | None, threshold: float, crf: bool) -> tuple:
        """An uploaded file to everything that the page shows of it."""
        if not path:
            return self._nothing("")
        try:
            found = self.run.analyse_file(path)
        except UserError as error:
            return self._nothing(f"<p>{html.escape(str(error))}.</p>")
        return self.show(found, self.run.likely_tags(found), threshold, crf)

    def _nothing(self, note: str) -> tuple:
        """All outputs without a photograph."""
        return None, note, None, None, [], None, *self._no_masks(), None, CLICK

    def show(self, found: Analysis, tags: list[int], threshold: float, crf: bool) -> tuple:
        """All outputs for an analysed photograph."""
        names = [self.run.classes[tag] for tag in tags]
        chances = dict(zip(self.run.classes, map(float, found.probabilities), strict=True))
        return (
            found,
            "",
            shown(found.image),
            chances,
            names,
            *self.masks(found, names, threshold, crf),
            *self._segmented(found),
            None,
            CLICK,
        )

    def masks(self, found: Analysis | None, names: list[str], threshold: float, crf: bool) -> tuple:
        """Class maps, pseudo-mask, its legend and its file for the chosen tags."""
        if found is None:
            return (None, *self._no_masks()[:3])
        tags = sorted(self.run.classes.index(name) for name in names)
        scores = zip(tags, self.run.scores(found, tags, threshold), strict=True)
        maps = [(heat_picture(found.image, score), self.run.classes[tag]) for tag, score in scores]
        mask = self.told(self.run.pseudo_mask, found, tags, threshold, crf)
        return maps, *self._masked(found, mask, "pseudo-mask")

    def _masked(self, found: Analysis, mask: np.ndarray, kind: str) -> tuple:
        # a folder of its own for each file: two visitors' photographs may have one name
        place = Path(tempfile.mkdtemp(dir=self.folder)) / f"{Path(found.name).name}-{kind}.png"
        write_mask(place, mask)
        return (
            mask_picture(found.image, mask, self.run.classes),
            self._legend(mask),
            self.gr.update(value=str(place), interactive=True),
        )

    def _segmented(self, found: Analysis) -> tuple:
        if found.predicted is None:
            return self._no_masks()[3:]
        return self._masked(found, found.predicted, "segmenter")

    def _no_masks(self) -> tuple:
        none = (None, "", self.gr.update(value=None, interactive=False))
        return none * 2

    def _legend(self, mask: np.ndarray) -> str:
        colours = np.array(palette()).reshape(-1, 3)
        labels = {"background": 0, "void": 255}
        labels |= {name: i for i, name in enumerate(self.run.classes, start=1)}
        spans = []
        for name, share in areas(mask, self.run.classes).items():
            red, green, blue = colours[labels[name]]
            chip = f'<i style="background: rgb({red}, {green}, {blue})"></i>'
            spans.append(f"<span>{chip}{html.escape(name)} {share:.1f} %</span>")
        return f'<div class="legend">{"".join(spans)}</div>'

    def slots(self, found: Analysis | None, block: str, place: tuple | None) -> tuple:
        """Picture and words for a clicked position (x, y) of the shown photograph."""
        if found is None or place is None:
            return None, ""
        return self.told(self._slots, found, block, place)

    def _slots(self, found: Analysis, block: str, place: tuple) -> tuple:
        height, width = found.image.shape[:2]
        rows, columns = shown(found.image).shape[:2]
        x, y = int((place[0] + 0.5) * width / columns), int((place[1] + 0.5) * height / rows)
        x, y = min(x, width - 1), min(y, height - 1)
        view = self.run.slots(found, block)
        words = f"Pixel {x},{y} of {width}x{height}, {view.name}."
        return slots_picture(found.image, view, x, y), words

    def browse(self, by: str, tag: str, page: float = 1) -> tuple:
        """One page of the run's images: gallery, its entries, a line of words."""
        index = self.run.classes.index(tag) if tag in self.run.classes else None
        entries = self.told(self.run.listed, by, index)
        pages = max(1, -(-len(entries) // PER_PAGE))
        number = min(max(1, int(page or 1)), pages)
        few = entries[(number - 1) * PER_PAGE : number * PER_PAGE]
        gallery = [(self._thumbnail(entry), _value(entry, by)) for entry in few]
        return gallery, few, f"{len(entries)} images, page {number} of {pages}", number

    def _thumbnail(self, entry: Entry) -> np.ndarray:
        return self.told(self.run.thumbnail, entry)

    def open_entry(self, entry: Entry, by: str) -> tuple[str, list[tuple[np.ndarray, str]]]:
        """Words about one image, and its stages."""
        tags = ", ".join(self.run.classes[tag] for tag in entry.record.tags) or "no tag"
        words = f"**{entry.record.id}** ({tags}), {_value(entry, by)}"
        return words, self.told(self.run.pictures, entry)

    def to_photograph(self, entry: Entry | None, threshold: float, crf: bool) -> tuple:
        """Show one of the run's images, with its own tags, on the first tab."""
        if entry is None:
            raise self.gr.Error("Choose an image first.", print_exception=False)
        found = self.told(self.run.analyse_file, entry.record.image)
        return self.show(found, list(entry.record.tags), threshold, crf)


def _value(entry: Entry, by: str) -> str:
    return f"uncertainty {entry.value:.2f}" if by == "unsure" else f"IoU {entry.value:.0f} %"


def build(run: Run, folder: Path) -> Any:
    """The page as a `gradio.Blocks`, not yet served."""
    page = Page(run, folder)
    title = f"wsss: {run.folder.name}"
    with page.gr.Blocks(title=title, analytics_enabled=False) as demo:
        lay_out(page)
    return demo


def lay_out(page: Page) -> None:
    """Put what the page shows into the `gradio.Blocks` that are being made."""
    gr, run = page.gr, page.run
    pseudo_label = "Pseudo-mask of the first round" if run.refined else "Pseudo-mask"
    orders = [(ORDERS[order], order) for order in run.orders]
    found, entries, entry, place = gr.State(), gr.State([]), gr.State(), gr.State()
    gr.Markdown(f"# {run.folder.name}: from tags to masks")
    with gr.Tabs() as tabs:
        with gr.Tab("A photograph", id="photograph"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                file = gr.File(label="Photograph", file_count="single", height=140, elem_id="upload")
                note = gr.HTML(elem_id="note")
                photograph = gr.Image(
                    label="Click for the slots there",
                    interactive=False,
                    buttons=[],
                    elem_id="photograph",
                )
                chances = gr.Label(label="Tags by probability", num_top_classes=5, show_heading=False)
                tags = gr.CheckboxGroup(
                    run.classes, label="Tags of the masks", info="Correct them where wrong."
                )
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    threshold = gr.Slider(
                        0,
                        1,
                        run.background,
                        step=0.01,
                        label="Background score",
                        info="More makes objects smaller.",
                        elem_id="threshold",
                    )
                    crf = gr.Checkbox(
                        run.made_with.crf is not None,
                        label="Dense CRF",
                        info="Sharpens along the photograph's edges.",
                        elem_id="crf",
                    )
                with gr.Row():
                    with gr.Column(min_width=280):
                        pseudo = gr.Image(
                            label=pseudo_label,
                            interactive=False,
                            buttons=["fullscreen"],
                            elem_id="pseudo",
                        )
                        pseudo_legend = gr.HTML()
                        pseudo_file = gr.DownloadButton(
                            "Download the pseudo-mask", interactive=False, elem_id="get-pseudo"
                        )
                    with gr.Column(min_width=280):
                        segmented = gr.Image(
                            label="Segmenter's mask",
                            interactive=False,
                            buttons=["fullscreen"],
                            elem_id="segmented",
                        )
                        legend = gr.HTML()
                        mask_file = gr.DownloadButton(
                            "Download the segmenter's mask",
                            interactive=False,
                            elem_id="get-mask",
                        )
                with gr.Row():
                    block = gr.Dropdown(
                        run.classifier.blocks,
                        value=run.classifier.default_blocks[-1],
                        label="Slots of",
                        info="STAGE.BLOCK, or clustered features",
                    )
                    words = gr.Markdown(CLICK)
                slots = gr.Image(
                    show_label=False,
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="slots",
                )
                maps = gr.Gallery(
                    label="Class map of each tag",
                    columns=3,
                    height="auto",
                    fit_columns=False,
                    object_fit="contain",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="maps",
                    elem_classes=["gallery", "large"],
                )
        with gr.Tab("The run's images", id="images") as browser:
            with gr.Row():
                by = gr.Radio(orders, value=orders[0][1], label="Order")
                tag = gr.Dropdown(["all", *run.classes], value="all", label="Tag")
                number = gr.Number(1, label="Page", precision=0, minimum=1, elem_id="page")
            count = gr.Markdown()
            images = gr.Gallery(
                show_label=False,
                columns=6,
                height="auto",
                fit_columns=False,
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                elem_id="images",
                elem_classes="gallery",
            )
            told = gr.Markdown("Choose an image to see its stages.")
            stages = gr.Gallery(
                show_label=False,
                columns=5,
                fit_columns=False,
                object_fit="contain",
                height="auto",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="stages",
                elem_classes=["gallery", "large"],
            )
            over = gr.Button("Open it as a photograph", elem_id="over")

    everything = [found, note, photograph, chances, tags, maps, pseudo, pseudo_legend, pseudo_file]
    everything += [segmented, legend, mask_file, slots, words]
    file.change(page.upload, [file, threshold, crf], everything, api_visibility="private")
    for change in (tags.input, threshold.release, crf.input):
        change(
            page.masks,
            [found, tags, threshold, crf],
            [maps, pseudo, pseudo_legend, pseudo_file],
            api_visibility="private",
        )

    def clicked(found: Any, block: str, event: gr.SelectData) -> tuple:
        return event.index, *page.slots(found, block, event.index)

    photograph.select(clicked, [found, block], [place, slots, words], api_visibility="private")
    block.input(page.slots, [found, block, place], [slots, words], api_visibility="private")
    listing = ([by, tag, number], [images, entries, count, number])
    browser.select(page.browse, *listing, api_visibility="private")
    for change in (by.input, tag.input):  # another list begins at its first page
        change(page.browse, [by, tag], listing[1], api_visibility="private")
    for change in (number.submit, number.blur):
        change(page.browse, *listing, api_visibility="private")

    def chosen(entries: list, by: str, event: gr.SelectData) -> tuple:
        return entries[event.index], *page.open_entry(entries[event.index], by)

    images.select(chosen, [entries, by], [entry, told, stages], api_visibility="private").success(
        None, js="() => document.getElementById('stages').scrollIntoView({block: 'nearest'})"
    )
    over.click(
        page.to_photograph, [entry, threshold, crf], everything, api_visibility="private"
    ).success(lambda: gr.Tabs(selected="photograph"), None, tabs, api_visibility="private")


def serve(
    make: Callable[[Path], Any],
    port: int,
    block: bool = True,
    place: Path | None = None,
    largest: int = LARGEST_FILE,
    largest_post: int = LARGEST_POST,
    inside: Sequence[Callable[[Any], Any]] = (),
) -> Any:
    """Serve a page on 127.0.0.1 until Ctrl-C, or in the background.

    Args:
        make: the page as a `gradio.Blocks`, given a folder for its files.
        port: of this machine.
        block: wait; if not, the caller closes the returned page by `close()`.
        place: where that folder is made; None: where the system has such.
        largest: bytes of an upload.
        largest_post: bytes of any other post.
        inside: what else answers requests that this machine's page may send, each around an ASGI app.

    Raises:
        UserError: Gradio is not installed, or the port is in use.
    """
    place = place and place.resolve()
    folder = tempfile.TemporaryDirectory(prefix=".wsss-app-", dir=place, ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder.name  # uploads and the pictures sent go with it
    gr = gradio()
    from starlette.middleware import Middleware

    demo = make(Path(folder.name).resolve())
    demo.folder = folder  # removed with the page
    checked = Middleware(_OnlyFromHere, port=port, largest=largest, largest_post=largest_post)
    try:
        demo.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            max_file_size=largest,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            css=_CSS,
            # fonts of the system: Gradio's own theme asks for others
            theme=gr.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            app_kwargs={"middleware": [checked, *map(Middleware, inside)]},
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"the page cannot use port {port} ({error}): choose another --port") from error
    print(f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends it", flush=True)
    if block:
        demo.block_thread()
    return demo


class _OnlyFromHere:
    """Answers this page only, on this machine, and tells the browser to fetch nothing from elsewhere.

    A page of another site reaches 127.0.0.1 through the user's browser. By a name of its own that it
    lets lead here (DNS rebinding) it would even read the answers: such a name stands in `Host`. Else it
    can send, not read: then its own address stands in `Origin`, or `Sec-Fetch-Site` names it.

    Args:
        app: what is served.
        port: where it is served.
        largest: bytes of an upload.
        largest_post: bytes of any other post.
    """

    def __init__(self, app: Any, port: int, largest: int, largest_post: int) -> None:
        self.app, self.port = app, port
        self.largest, self.largest_post = largest, largest_post
        self.hosts = {f"{name}:{port}" for name in _NAMES} | ({*_NAMES} if port == 80 else set())
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # Gradio's page needs none
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._answer(send, *refusal)
            return
        most = self._most(scope)
        seen, answered = 0, False

        async def bounded() -> dict:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise _TooLarge
            return message

        async def with_header(message: dict) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            await self.app(scope, bounded, with_header)
        except _TooLarge:
            if not answered:
                await self._answer(send, 413, "too large")

    def _refusal(self, scope: dict) -> tuple[int, str] | None:
        """Status and words for a request that this page does not send; None: it may."""
        values: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            values.setdefault(name.decode("latin-1").lower(), []).append(
                value.decode("latin-1").lower()
            )
        if len(values.get("host", ())) != 1 or values["host"][0] not in self.hosts:
            return 421, f"this page is http://127.0.0.1:{self.port}; a tunnel to it needs the same port"
        if any(origin not in self.origins for origin in values.get("origin", ())):
            return 403, "another site's page asks"
        looks = scope["method"] in ("GET", "HEAD")
        sites = {"same-origin", "none"}
        # a link to the page itself may stand anywhere
        if looks and scope["path"] == "/" and values.get("sec-fetch-mode") == ["navigate"]:
            sites |= {"same-site", "cross-site"}
        if any(site not in sites for site in values.get("sec-fetch-site", ())):
            return 403, "another site's page asks"
        length = values.get("content-length", ["0"])[-1]
        if not length.isdecimal():
            return 400, "no length"
        if int(length) > self._most(scope):
            return 413, "too large"
        return None

    def _most(self, scope: dict) -> int:
        """Bytes that a request may have."""
        # an upload has some lines around each file
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        return self.largest + 2**16 if is_upload else self.largest_post

    async def _answer(self, send: Any, status: int, words: str) -> None:
        body = words.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        headers = [*headers, (b"connection", b"close"), *_HEADERS]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _TooLarge(Exception):
    """A request has more bytes than it may."""


_NAMES = ("127.0.0.1", "localhost")
_HEADERS = [
    (b"content-security-policy", _ONLY_FROM_HERE.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
