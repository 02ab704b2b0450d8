"""A web page that restores photos: upload, references, sliders, before and after.

    python app.py --weights experiments/stage3/models/net_g_latest.pth --detector scrfd_2.5g_bnkps.onnx
    python app.py --weights net_g.safetensors
    python app.py --weights weights/CodeFormer/codeformer.pth --recognizer buffalo_l

Needs gradio, which is an extra: pip install 'id-codeformer[gradio]'. Without --detector it takes aligned face crops.
Only this machine can open the page, unless --host says otherwise. Uploads and results lie in one temporary folder that
is removed at the end; nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import html
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent
sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "scripts"))
import _root  # noqa: F401  a foreign basicsr is named and refused
import numpy as np
from _guardian import guarded
from _page_examples import make_examples

from basicsr.faces import load_detector
from basicsr.inference import FaceRestorer
from basicsr.inference.studio import FOLDER_MARK, Studio, Wish, people_by_name, read_upload
from basicsr.models.identity_guidance import GuidanceOptions
from basicsr.utils.cli import run_main
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import IMAGE_SUFFIXES, Image

logger = logging.getLogger("app")

MODES = [("references, else the photo itself", "auto"), ("the photo itself", "self"), ("nobody (blind)", "none")]
HEADER = """# ID-CodeFormer
Restore a degraded face, guided by other photos of the same person."""
# of a chosen folder the browser tells gradio the files' names alone: pictures get their folders before their names
FOLDER_SCRIPT = """() => {
    const chosen = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "files").get;
    document.addEventListener("change", ({target}) => {
        if (target.type !== "file" || !target.webkitdirectory) return;
        const named = [];
        for (const file of chosen.call(target)) {
            const name = file.webkitRelativePath.split("/").slice(1).join("MARK");
            if (/\\.(SUFFIXES)$/i.test(name)) named.push(new File([file], name, {type: file.type}));
        }
        Object.defineProperty(target, "files", {value: named, configurable: true});
    }, true);
    document.body.dataset.folders = "ready";
}"""
NOTES_SHOWN = 5  # of photos that cannot be used
STYLE = ".gradio-container {max-width: 1200px !important; margin: auto} footer {display: none !important}"


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the page is closed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, default=Path("weights/CodeFormer/codeformer.pth"), help=".pth or .safetensors")
    add("--recognizer", type=Path, help="recognizer file, if not where the weights say; with CodeFormer weights it "
        "makes references act")  # fmt: skip
    add("--self_encoder", type=Path, help="E_LQ file for the mode self, if not where the weights say")
    add("--detector", help="file or name of a face detector, for whole photos; see docs/inference.md")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    add("--host", default="127.0.0.1", help="0.0.0.0: everybody who can reach this machine (default: only itself)")
    add("--port", type=int, default=7860)
    add("--max_upload_mb", type=float, default=20, help="largest file that is taken")
    args = parser.parse_args(argv)
    if not args.max_upload_mb > 0:
        raise UserError(f"--max_upload_mb is {args.max_upload_mb:g}, expected more than 0.")
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="id-codeformer-") as folder, guarded(Path(folder)):
        keep_to(Path(folder))
        try:
            import gradio
        except ImportError as error:
            raise UserError("the web page needs gradio: pip install 'gradio>=6,<7'.") from error
        restorer = FaceRestorer(args.weights, args.recognizer, args.device, self_encoder=args.self_encoder)
        detector = None if args.detector is None else load_detector(args.detector, weights_folder=ROOT / "weights")
        serve(build_page(gradio, Studio(restorer, detector), Path(folder)), gradio, args)
    return 0


def _leave(_signal: int, _frame: Any) -> NoReturn:
    sys.exit(0)  # by way of the folder's removal


def keep_to(folder: Path) -> None:
    """Before gradio is imported: all its files go into `folder`, and it reports to nobody."""
    os.environ.update(
        GRADIO_TEMP_DIR=str(folder / "gradio"),
        GRADIO_ANALYTICS_ENABLED="False",
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        MPLCONFIGDIR=str(folder / "matplotlib"),  # gradio imports it, and it keeps a list of fonts
    )
    tempfile.tempdir = str(folder)


def serve(page: Any, gradio: Any, args: argparse.Namespace) -> None:
    """Show the page until Ctrl-C or SIGTERM."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    theme = gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # fonts of this machine
    try:
        page.queue(default_concurrency_limit=1).launch(
            server_name=args.host, server_port=args.port, max_file_size=round(args.max_upload_mb * 1e6), quiet=True,
            prevent_thread_lock=True, share=False, ssr_mode=False, footer_links=[], theme=theme, css=STYLE,
            js=folder_script(),
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {args.port}: cannot be had on {args.host}; choose another one.") from error
    logger.info("http://%s:%d (Ctrl-C ends it)", args.host, args.port)
    page.block_thread()


def build_page(gradio: Any, studio: Studio, folder: Path) -> Any:
    """The page. `folder` takes the pictures of the examples."""
    gr = gradio
    examples = make_examples(folder / "examples")
    with gr.Blocks(title="ID-CodeFormer", delete_cache=(600, 3600), analytics_enabled=False) as page:
        gr.Markdown(HEADER)
        people = gr.State({})
        with gr.Row():
            with gr.Column(scale=2):
                photo = picture_file(gr, "Photo" if studio.detector else "Photo: an aligned, square face crop", "photo")
                refs = picture_file(
                    gr, "Photos of the same person", "refs", file_count="multiple",
                    visible=studio.restorer.recognizer is not None,
                )  # fmt: skip
                added = several_people(gr, studio, people)
                knobs = knob_controls(gr, studio)
                cost = guidance_cost(gr, studio, *knobs[4:6])
                button = gr.Button("Restore", variant="primary", elem_id="restore")
            with gr.Column(scale=3):
                view = gr.ImageSlider(
                    label="Before | after", format="png", interactive=False, height=540, elem_id="view"
                )
                table = gr.Dataframe(
                    headers=["face", "person", "guided by", "similarity before", "after", "guidance"],
                    label="Faces, from left to right", wrap=True, interactive=False, elem_id="faces",
                    column_widths=["8%", "26%", "12%", "14%", "10%", "30%"],
                )  # fmt: skip
                seen = gr.Gallery(
                    label="Uploaded", columns=5, height=190, interactive=False, object_fit="contain",
                    fit_columns=False, elem_id="uploaded",
                )  # fmt: skip
                shown = gr.Gallery(
                    [str(lq) for lq, _ in examples], label="Examples (generated faces): click one", columns=5,
                    height=190, object_fit="contain", fit_columns=False, allow_preview=False,
                    interactive=False, elem_id="examples",
                )  # fmt: skip
        previews = {"inputs": [photo, refs], "outputs": seen, "show_progress": "hidden"}
        for box in (photo, refs):
            box.upload(answering(gr, preview), **previews)
            box.clear(answering(gr, preview), **previews)
        button.click(
            answering(gr, lambda *given: restore(gr, studio, *given)),
            inputs=[photo, refs, people, *knobs], outputs=[view, table, cost],
        )  # fmt: skip

        def take_example(event: Any) -> tuple[Any, ...]:
            lq, known = examples[event.index]
            paths = [str(path) for path in known]
            return str(lq), paths, [str(lq), *paths], True, {}, []

        take_example.__annotations__["event"] = gr.SelectData  # by which gradio knows that it is to be handed over
        shown.select(take_example, outputs=[photo, refs, seen, knobs[-2], people, added])
    return page


def picture_file(gr: Any, label: str, name: str, **options: Any) -> Any:
    return gr.File(label=label, file_types=list(IMAGE_SUFFIXES), height=130, elem_id=name, **options)


def knob_controls(gr: Any, studio: Studio) -> list[Any]:
    """Sliders and switches: w, w_id, id_scale, mode, guided, steps, aligned, upscale."""
    knows, whole = studio.restorer.takes_identity, studio.detector is not None
    w = gr.Slider(0, 1, 0.5, step=0.05, label="w", info="0 quality .. 1 fidelity to the photo", elem_id="w")
    with gr.Row(visible=knows):
        w_id = gr.Slider(0, 2, 1, step=0.05, label="w_id", info="identity styling, 0 is off")
        id_scale = gr.Slider(0, 3, 1, step=0.1, label="id_scale", info="guidance by the identity, 1 is plain")
    mode = gr.Radio(MODES, value="auto", label="Guided by", visible=knows)
    default = studio.restorer.guidance_options(None).steps
    with gr.Row(visible=studio.restorer.recognizer is not None):
        guided = gr.Checkbox(default > 0, label="identity guidance", info="towards the references, in steps")
        steps = gr.Slider(0, 50, default or GuidanceOptions().steps, step=1, label="steps", info="at most; 0 is off")
    with gr.Row(visible=whole):
        aligned = gr.Checkbox(not whole, label="aligned face crops", info="photo and references stay as they are")
        upscale = gr.Radio([1, 2, 4], value=2, label="Enlarge the photo")
    return [w, w_id, id_scale, mode, guided, steps, aligned, upscale]


def guidance_cost(gr: Any, studio: Studio, guided: Any, steps: Any) -> Any:
    """The line that says how long guidance takes."""
    line = gr.Markdown(
        cost_line(studio, guided.value, steps.value), visible=studio.restorer.recognizer is not None, elem_id="cost"
    )
    for control in (guided, steps):
        control.change(
            lambda *given: cost_line(studio, *given), inputs=[guided, steps], outputs=line, show_progress="hidden"
        )
    return line


def cost_line(studio: Studio, guided: bool, steps: float) -> str:
    """Words for the time that guidance takes on this machine."""
    if not (guided and steps):
        return "Identity guidance is off."
    seconds = studio.seconds_of_guidance(int(steps))
    if seconds is None:
        return "Identity guidance: its time is measured with the first face."
    return f"Identity guidance: at most about {max(seconds, 0.1):.{0 if seconds >= 10 else 1}f} s a face."


def several_people(gr: Any, studio: Studio, people: Any) -> Any:
    """A gallery of people, of whom each face of the photo may be one. Returns the view of those that were added."""
    with gr.Accordion(
        "Several people in the photo", open=False, visible=studio.restorer.recognizer is not None, elem_id="people"
    ):
        gr.Markdown("A gallery is a folder with a folder per person, or with photos called by the person: `Ann 1.jpg`.")
        folder = picture_file(gr, "Gallery", "gallery", file_count="directory")
        gr.Markdown("Or one by one:")
        name = gr.Textbox(label="Name", max_lines=1, elem_id="person")
        photos = picture_file(gr, "Photos of this person", "person_photos", file_count="multiple")
        with gr.Row():
            add, clear = gr.Button("Add person", elem_id="add_person"), gr.Button("Remove all")
        shown = gr.Gallery(label="People", columns=4, height=140, interactive=False, elem_id="people_shown")

    def add_person(known: dict[str, list[str]], called: str, files: list[str] | None) -> tuple[Any, ...]:
        called = called.strip()
        if not called or not files:
            raise UserError("A person needs a name and at least one photo.")
        for file in files:
            read_upload(Path(file))
        known = {**known, called: [*known.get(called, []), *files]}
        return known, "", None, named_pictures(known)

    def add_folder(known: dict[str, list[str]], files: list[str] | None) -> tuple[Any, ...]:
        usable, bad = [], []
        for file in map(Path, files or []):
            try:
                read_upload(file)
                usable.append(file)
            except UserError as error:
                bad.append(str(error))
        if not usable:
            raise UserError(bad[0] if bad else "No picture in this folder.")
        warn(gr, bad)
        for who, of_person in people_by_name(usable).items():
            known = {**known, who: [*known.get(who, []), *map(str, of_person)]}
        return known, None, named_pictures(known)

    folder.upload(answering(gr, add_folder), inputs=[people, folder], outputs=[people, folder, shown])
    add.click(answering(gr, add_person), inputs=[people, name, photos], outputs=[people, name, photos, shown])
    clear.click(lambda: ({}, []), outputs=[people, shown])
    return shown


def named_pictures(people: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(file, who) for who, of_person in people.items() for file in of_person]


def warn(gr: Any, notes: Sequence[str]) -> None:
    """Say on the page what was left out."""
    if notes:
        shown, more = notes[:NOTES_SHOWN], len(notes) - NOTES_SHOWN
        lines = [html.escape(note) for note in shown] + ([f"and {more} more"] if more > 0 else [])
        gr.Warning("<br>".join(lines), title="Left out")


def folder_script() -> str:
    """FOLDER_SCRIPT, filled in."""
    suffixes = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
    return FOLDER_SCRIPT.replace("SUFFIXES", suffixes).replace("MARK", FOLDER_MARK)


def answering(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose UserError is shown on the page as its one line; any other fault goes to the log."""

    def answer(*given: Any) -> Any:
        try:
            return function(*given)
        except UserError as error:
            raise gr.Error(html.escape(str(error)), title="Not possible", print_exception=False) from error

    return answer


def preview(photo: str | None, refs: list[str] | None) -> list[tuple[Image, str]]:
    """The uploaded pictures as the network will see them, the photo first, or the line that says what is wrong."""
    files = [*([photo] if photo else []), *(refs or [])]
    return [(rgb(read_upload(Path(file))), Path(file).name) for file in files]


def restore(
    gr: Any, studio: Studio, photo: str | None, refs: list[str] | None, people: dict[str, list[str]], *knobs: Any
) -> tuple[Any, ...]:
    """Before and after, the rows of the table, and how long guidance takes."""
    if not photo:
        raise UserError("There is no photo yet: upload one, or click an example.")
    w, w_id, id_scale, mode, guided, steps, aligned, upscale = knobs
    given = {name: [Path(file) for file in files] for name, files in people.items()}
    chosen = {"w": w, "w_id": w_id, "id_scale": id_scale, "mode": None if mode == "auto" else mode}
    chosen["guide"] = int(steps) if guided else 0
    wish = Wish(Path(photo), [Path(file) for file in refs or []], given, chosen, bool(aligned), float(upscale))
    done = studio.restore(wish)
    warn(gr, done.notes)
    rows = [[number, *face] for number, face in enumerate(done.faces)]
    return (rgb(done.before), rgb(done.after)), rows, cost_line(studio, guided, steps)


def rgb(image: Image) -> Image:
    return np.ascontiguousarray(image[..., ::-1])


if __name__ == "__main__":
    run_main(main)
