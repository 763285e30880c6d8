"""The page of `wsss app`: a project from photographs and tags to its finished run."""

import html
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsss.app import Page, gradio, lay_out, serve
from wsss.errors import UserError
from wsss.exchange.archive import UNPACKED
from wsss.explore import Run
from wsss.projects import Choice, Project, Projects, State, Status

LARGEST_UPLOAD = UNPACKED
"""Bytes of the files that are uploaded at once."""

LARGEST_POST = 64 * 2**20
"""Bytes of any other post: the names of as many files as a project takes."""

NETWORKS = [
    ("the usual one, downloaded once", ""),
    ("glnet_lite: comes with wsss, no download", "glnet_lite"),
    ("glnet_nano: smaller and faster, knows less", "glnet_nano"),
]
"""Backbones that are offered, and what they are called; others are typed by their names in timm."""

LENGTHS = [("the whole run", False), ("a trial: one epoch of small images", True)]

NO_PROJECT = "make a project, or choose one"

_SECONDS = 1.0
"""Between two looks at a run."""

_LINES = 200
"""Of a run's log that are shown."""

_MARKS = {"done": "✓", "now": "▶", "todo": "·"}

_STARTS: dict[State, str] = {"stopped": "Go on", "failed": "Go on", "finished": "Run again"}

# a report has pictures and styles of its own, and no script
_REPORT = {"content-security-policy": "sandbox; default-src 'none'; img-src data:; "
           "style-src 'unsafe-inline'"}  # fmt: skip


class ProjectPage:
    """What happens on the page; one for all of its visitors, who see the same projects.

    Args:
        projects: where they are kept.
        folder: for uploads, and for what is made of them.
    """

    def __init__(self, projects: Projects, folder: Path) -> None:
        self.projects, self.folder, self.gr = projects, folder, gradio()
        self._pages: dict[Path, tuple[float, Page]] = {}

    def project(self, name: str | None) -> Project:
        """The project of that name.

        Raises:
            UserError: there is none, or none was chosen.
        """
        if not name:
            raise UserError(NO_PROJECT)
        return self.projects[name]

    # what events give: always `choosing`, then `now`, then what is theirs alone

    def opened(self) -> tuple:
        """The project last worked on, for whoever comes (again)."""
        names = self.projects.names()
        return self.chosen(names[0] if names else None)

    def chosen(self, name: str | None) -> tuple:
        """Everything of a project that was chosen."""
        try:
            trial = _is_trial(self.project(name)) if name else False
        except UserError as error:
            return self._all(None, "", False, _problem(error))
        return self._all(name, "", trial)

    def make(self, name: str) -> tuple:
        """A new project."""
        try:
            made = self.projects.make((name or "").strip())
        except UserError as error:
            names = self.projects.names()
            return self._all(names[0] if names else None, name, False, _problem(error))
        return self._all(made.name, "", False)

    def _all(self, name: str | None, new: str, trial: bool, problem: str = "") -> tuple:
        names = self.gr.update(choices=self.projects.names(), value=name)
        return names, new, trial, *self.inputs(name, trial, problem), "", "", *self.now(name, trial)

    def inputs(self, name: str | None, trial: bool, problem: str = "") -> tuple:
        """What was uploaded, and what settings are made by."""
        nothing = "", self.gr.update(choices=[], value=None), "", ""
        if not name:
            return problem, *nothing
        try:
            project = self.project(name)
            choice = project.choice(trial)
            terminal = _pre(project.in_a_terminal(choice))
        except UserError as error:
            return problem or _problem(error), *nothing
        choices = [(_table_words(table), table) for table in project.tables()]
        place = html.escape(str(project.path.resolve()))
        files = f"{html.escape(project.contents())} in <code>{place}</code>"
        told = f"{files}, as plain files on which the commands of a terminal work, too."
        table = self.gr.update(choices=choices, value=choice.table)
        return problem, told, table, choice.backbone, terminal

    def add(self, name: str | None, trial: bool, files: list[dict] | None) -> tuple:
        """Uploaded files into the project; nothing is left in the field."""
        # as the browser says it: no part of a path may lead out of the folder of uploads
        given = [(Path(file["path"]).resolve(), file.get("orig_name") or "") for file in files or []]
        uploaded = [path.is_relative_to(self.folder.resolve()) for path, _ in given]
        try:
            if not all(uploaded):
                raise UserError("only files that were uploaded can be added")
            told = self.project(name).add(given)
            problem = f"<div>{html.escape(told)}</div>"
        except UserError as error:
            problem = _problem(error)
        finally:
            for (path, _), own in zip(given, uploaded, strict=True):
                if own:
                    path.unlink(missing_ok=True)
        return None, *self.inputs(name, trial, problem), *self.now(name, trial)

    def check(self, name: str | None, table: str, backbone: str, trial: bool) -> tuple:
        """What `wsss check` and `wsss init` say."""
        said, rows, problem, terminal = [], [], "", ""
        try:
            project, choice = self.project(name), Choice(table or "", (backbone or "").strip(), trial)
            said = project.verdict(choice)
            terminal = _pre(project.in_a_terminal(choice))
            rows = project.prepare(choice)
        except UserError as error:
            problem = _problem(error)
        return problem, _pre(said), _pre(rows), terminal, *self.now(name, trial)

    def start(self, name: str | None, table: str, backbone: str, trial: bool) -> tuple:
        """Begin or go on."""
        choice = Choice(table or "", (backbone or "").strip(), trial)
        return self._work(name, trial, lambda project: project.start(choice))

    def stop(self, name: str | None, trial: bool) -> tuple:
        """End the run; what is half made stays."""
        return self._work(name, trial, lambda project: project.stop(trial))

    def _work(self, name: str | None, trial: bool, work: Callable[[Project], None]) -> tuple:
        problem = ""
        try:
            work(self.project(name))
        except UserError as error:
            problem = _problem(error)
        return problem, *self.now(name, trial)

    def now(self, name: str | None, trial: bool) -> tuple:
        """How it stands: status, the log, buttons, links."""
        off = self.gr.update(interactive=False)
        if not name:
            return f"<p>{NO_PROJECT.capitalize()}.</p>", "", off, off, "", off
        try:
            status = self.project(name).status(trial)
        except UserError as error:
            return _problem(error), "", off, off, "", off
        at_work = status.state in ("working", "stopping")
        start = self.gr.update(value=_STARTS.get(status.state, "Start"), interactive=not at_work)
        stop = self.gr.update(interactive=status.state == "working")
        finished = status.state == "finished"
        look = self.gr.update(interactive=finished)
        links = _links(name, trial) if finished else ""
        return _shown(status), _pre(status.said[-_LINES:], "said log"), start, stop, links, look

    def page_of(self, name: str, trial: bool) -> Page:
        """The page of a finished run, kept while the run is the same.

        Raises:
            UserError: it is not finished.
        """
        run = self.project(name).run(trial)
        run.require_finished()
        made = run.finished.timestamp()
        known = self._pages.get(run.path)
        if known is None or known[0] != made:
            known = self._pages[run.path] = (made, Page(Run(run.path), self.folder))
        return known[1]


def _is_trial(project: Project) -> bool:
    """Whether the trial is what was last worked on."""
    states = [project.status(trial).state for trial in (False, True)]
    if "working" in states:
        return states[1] == "working"
    return states[0] in ("new", "ready") and states[1] not in ("new", "ready")


def _problem(error: UserError) -> str:
    return f"<p>{html.escape(str(error)).removesuffix('.')}.</p>"


def _pre(lines: Iterable[str], style: str = "said") -> str:
    text = html.escape("\n".join(lines)).strip()
    return f'<pre class="{style}">{text}</pre>' if text else ""


def _table_words(table: str) -> str:
    return {"": "the photographs' folder", ".": "all XML files"}.get(table, table)


def _shown(status: Status) -> str:
    """A status as HTML: the stages, a sentence, a bar."""
    at_work = status.state in ("working", "stopping")
    marks, now = [], at_work
    for title, done in status.stages:
        mark = "done" if done else "now" if now else "todo"
        now = now and done
        marks.append(f'<li class="{mark}">{_MARKS[mark]} {html.escape(title)}</li>')
    words = html.escape(status.words)
    parts = [f'<ul class="stages">{"".join(marks)}</ul>', f"<p><b>{words}</b></p>"]
    if status.bar is not None:
        share, more = 100 * status.bar.share, html.escape(status.bar.more)
        parts.append(f"<p>{html.escape(status.bar.what)}: {share:.0f} % {more}</p>")
        parts.append(f'<progress max="100" value="{share:.0f}"></progress>')
    return "".join(parts)


def _address(name: str, trial: bool, file: str) -> str:
    return f"/project/{quote(name)}/{'trial' if trial else 'run'}/{file}"


def _links(name: str, trial: bool) -> str:
    report, masks = (_address(name, trial, file) for file in ("report.html", "masks.zip"))
    return (
        f'<a href="{report}" target="_blank" id="report">Open the report</a>'
        f'<a href="{masks}" download id="masks">Download the masks of the training photographs</a>'
    )


class Files:
    """Answers for a project's report and masks, and hands all else on.

    Args:
        app: what is served beside them.
        projects: where they are kept.
    """

    def __init__(self, app: Any, projects: Projects) -> None:
        self.app, self.projects = app, projects

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/project/"):
            await self.app(scope, receive, send)
            return
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse

        try:
            answer = await run_in_threadpool(self._answer, scope["path"].split("/")[2:])
        except UserError as error:
            answer = PlainTextResponse(f"{error}\n", 404)
        await answer(scope, receive, send)

    def _answer(self, parts: list[str]) -> Any:
        from starlette.background import BackgroundTask
        from starlette.responses import FileResponse, StreamingResponse

        if len(parts) != 3 or parts[1] not in ("run", "trial"):
            raise UserError("there is no such page")
        name, which, file = parts
        project, trial = self.projects[name], which == "trial"
        run = project.run(trial)
        run.require_finished()
        if file == "report.html" and run.report.is_file():
            return FileResponse(run.report, media_type="text/html", headers=_REPORT)
        if file != "masks.zip":
            raise UserError("there is no such page")
        packed = tempfile.TemporaryFile(dir=self.projects.folder)  # noqa: SIM115, sent and closed below
        project.pack_masks(trial, packed)
        its_name = quote(f"{name}-trial-masks.zip" if trial else f"{name}-masks.zip")
        headers = {
            "content-disposition": f"attachment; filename*=utf-8''{its_name}",
            "content-length": str(packed.tell()),
        }
        packed.seek(0)
        closing = BackgroundTask(packed.close)
        parts = iter(partial(packed.read, 2**16), b"")
        return StreamingResponse(
            parts, media_type="application/zip", headers=headers, background=closing
        )


def build(projects: Projects, folder: Path) -> Any:
    """The page as a `gradio.Blocks`, not yet served."""
    page = ProjectPage(projects, folder)
    gr = page.gr
    with gr.Blocks(title="wsss: projects", analytics_enabled=False) as demo:
        viewed = gr.State()
        gr.Markdown("# From photographs and tags to masks")
        with gr.Row(equal_height=True):
            name = gr.Dropdown([], label="Project", elem_id="project")
            new = gr.Textbox(label="New project", placeholder="its name", elem_id="new")
            make = gr.Button("Make it", elem_id="make", scale=0, min_width=120)
        problem = gr.HTML(elem_id="problem")
        with gr.Tabs() as tabs:
            with gr.Tab("The project", id="project"):
                gr.Markdown("### 1. Photographs and tags")
                files = gr.File(
                    label="Photographs (files, or a zip) and the table of tags: drop them here",
                    file_count="multiple",
                    height=140,
                    elem_id="add",
                )
                contents = gr.HTML(elem_id="contents")
                gr.Markdown("### 2. Check, and make the settings")
                with gr.Row():
                    table = gr.Dropdown([], label="Tags are read from", elem_id="table")
                    backbone = gr.Dropdown(
                        NETWORKS,
                        value="",
                        label="Network",
                        info="Others by their names in timm.",
                        allow_custom_value=True,
                        elem_id="backbone",
                    )
                    trial = gr.Radio(LENGTHS, value=False, label="What is run", elem_id="trial")
                check = gr.Button("Check", elem_id="check")
                with gr.Row():
                    verdict = gr.HTML(elem_id="verdict")
                    understood = gr.HTML(elem_id="understood")
                gr.Markdown("### 3. Run")
                with gr.Row():
                    start = gr.Button("Start", variant="primary", interactive=False, elem_id="start")
                    stop = gr.Button("Stop", interactive=False, elem_id="stop")
                status = gr.HTML(elem_id="status")
                said = gr.HTML(elem_id="said")
                gr.Markdown("### 4. Results")
                links = gr.HTML(elem_id="results")
                look = gr.Button("Look at the run", interactive=False, elem_id="look")
                with gr.Accordion("The same in a terminal", open=False):
                    terminal = gr.HTML(elem_id="terminal")
            with gr.Tab("The finished run", id="run"):

                @gr.render(inputs=viewed)
                def finished(viewed: tuple[str, bool] | None) -> None:
                    if viewed is None:
                        gr.Markdown("Choose “Look at the run” of a finished run first.")
                        return
                    try:
                        its = page.page_of(*viewed)
                    except UserError as error:
                        gr.HTML(_problem(error))
                        return
                    lay_out(its)

        now = [status, said, start, stop, links, look]
        inputs = [problem, contents, table, backbone, terminal]
        everything = [name, new, trial, *inputs, verdict, understood, *now]
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        demo.load(page.opened, None, everything, **quiet)
        name.input(page.chosen, name, everything, **quiet)
        for event in (make.click, new.submit):
            event(page.make, new, everything, **quiet)
        trial.input(page.now, [name, trial], now, **quiet)
        # as the browser sends it: with the names that the user knows
        files.upload(
            page.add,
            [name, trial, files],
            [files, *inputs, *now],
            preprocess=False,
            api_visibility="private",
        )
        chosen = [name, table, backbone, trial]
        told = [problem, verdict, understood, terminal]
        check.click(page.check, chosen, [*told, *now], api_visibility="private")
        start.click(page.start, chosen, [problem, *now], api_visibility="private")
        stop.click(page.stop, [name, trial], [problem, *now], api_visibility="private")
        gr.Timer(_SECONDS).tick(page.now, [name, trial], now, **quiet)
        look.click(
            lambda name, trial: ((name, trial), gr.Tabs(selected="run")),
            [name, trial],
            [viewed, tabs],
            api_visibility="private",
        )
    return demo


def serve_projects(folder: Path, port: int, block: bool = True) -> Any:
    """Serve the page of projects as `wsss.app.serve` does; runs that it started end with it.

    Args:
        folder: of the projects; is made where it is missing.
        port: of this machine.
        block: wait; if not, the caller closes the returned page by `close()`.

    Raises:
        UserError: Gradio is not installed, or the port is in use.
    """
    projects = Projects(folder)
    projects.names()
    try:
        return serve(
            partial(build, projects),
            port,
            block,
            place=folder,
            largest=LARGEST_UPLOAD,
            largest_post=LARGEST_POST,
            inside=[partial(Files, projects=projects)],
        )
    finally:
        if block:
            projects.end()
