"""The web page in a real browser: upload, restore, compare, examples, a bad file; and no file is left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from _page_examples import EXAMPLE_PEOPLE, make_examples
from browser import Browser, find_browser
from people_toys import toy_photo, toy_recognizer
from restorer_toys import make_codeformer, make_net, photo_with
from toy_run import make_faces

import app
from basicsr.faces import load_detector
from basicsr.inference import FaceRestorer, studio
from basicsr.inference.studio import Studio, Wish, people_by_name
from basicsr.models.identity_guidance import GuidanceOptions
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import imread, imwrite

ROOT = Path(__file__).resolve().parent.parent
KNOBS = {"w": 0.5, "w_id": 1.0, "id_scale": 1.0, "mode": None}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.pth, its recogniser, scrfd.onnx, faces/<person>_<photo>.png, photo.png and no_picture.png."""
    folder = tmp_path_factory.mktemp("toy")
    make_net(folder)
    make_faces(folder / "faces")
    imwrite(folder / "photo.png", photo_with((0, 0), (2, 2)))
    (folder / "no_picture.png").write_bytes(b"this is a text")
    for number, name in enumerate(("Ann", "Bea")):
        for photo in range(2):
            imwrite(folder / f"family/{name}/IMG_{photo}.png", imread(folder / f"faces/{number}_{photo}.png"))
    (folder / "family/Ann/notes.txt").write_text("no picture, and not sent")
    return folder


def wish(toy: Path, **changes: object) -> Wish:
    plain = Wish(toy / "faces/0_0.png", [], {}, KNOBS, is_aligned=True)
    return plain._replace(**changes)  # type: ignore[arg-type]


def test_a_crop_is_restored_by_its_references_and_shown_at_one_size(toy: Path) -> None:
    restorer = FaceRestorer(toy / "net.pth", device="cpu")
    done = Studio(restorer, None).restore(wish(toy, refs=[toy / "faces/0_1.png"]))
    expected = restorer.restore(toy / "faces/0_0.png", [imread(toy / "faces/0_1.png")], w=0.5)
    assert done.before.shape == done.after.shape == (512, 512, 3)
    assert done.faces[0].mode == "ref"
    assert (done.faces[0].before, done.faces[0].after) == (
        f"{expected.similarity_before:.2f}", f"{expected.similarity_after:.2f}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def codeformer(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """With CodeFormer weights and a recognizer, for aligned crops."""
    folder = tmp_path_factory.mktemp("codeformer")
    weights, recognizer = make_codeformer(folder), toy_recognizer(folder / "people.safetensors")
    return Studio(FaceRestorer(weights, recognizer=recognizer, device="cpu"), None)


def test_codeformer_weights_take_references_and_people_and_the_table_says_what_guidance_did(
    codeformer: Studio, tmp_path: Path
) -> None:
    for name in ("face", "ref"):
        imwrite(tmp_path / f"{name}.png", toy_photo(0, len(name)))
    plain = Wish(tmp_path / "face.png", [tmp_path / "ref.png"], {}, {**KNOBS, "guide": 2}, is_aligned=True)
    expected = codeformer.restorer.restore(tmp_path / "face.png", tmp_path / "ref.png", guide=2).guidance
    assert expected is not None
    report = expected.report
    for wanted in (plain, plain._replace(refs=[], people={"Ann": [tmp_path / "ref.png"]})):
        (line,) = codeformer.restore(wanted).faces
        assert line.mode == "ref"
        assert f"{report.steps} steps: {report.similarity_before:.2f} → {report.similarity_after:.2f}" in line.guidance
        assert ("stopped at margin" in line.guidance) == report.stopped_at_margin
        assert "over-guided" not in line.guidance
    (line,) = codeformer.restore(plain._replace(knobs={**KNOBS, "guide": 0})).faces
    assert (line.mode, line.guidance) == ("none", "")


def test_the_table_warns_of_low_similarity_and_of_too_much_guidance(codeformer: Studio) -> None:
    face, ref = toy_photo(0, 0), toy_photo(3, 0)
    done = codeformer.restorer.restore(face, ref, guide=GuidanceOptions(steps=3, margin=1.0))
    assert done.guidance is not None
    low = done._replace(each_reference=((0.1, 0.9),), guidance=done.guidance._replace(unguided=(0.15,)))
    assert "low similarity" in studio.describe_guidance(low), "what guidance has made similar does not count"
    close = low._replace(guidance=low.guidance._replace(unguided=(0.3,), over_guided=True))  # type: ignore[union-attr]
    assert "low similarity" not in studio.describe_guidance(close)
    assert "over-guided" in studio.describe_guidance(close)


def test_the_time_of_guidance_is_that_of_the_latest_guided_photo(
    codeformer: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Studio(codeformer.restorer, None)
    imwrite(tmp_path / "face.png", toy_photo(0, 0))
    imwrite(tmp_path / "ref.png", toy_photo(3, 0))
    knobs = {**KNOBS, "guide": GuidanceOptions(steps=2, margin=1.0)}
    wanted = Wish(tmp_path / "face.png", [tmp_path / "ref.png"], {}, knobs, is_aligned=True)
    page.restore(wanted._replace(knobs={**KNOBS, "guide": 0}))
    assert page.seconds_of_guidance(10) is None
    assert "measured with the first face" in app.cost_line(page, True, 10)
    now = iter((100.0, 103.0))
    monkeypatch.setattr(studio.time, "perf_counter", lambda: next(now))
    page.restore(wanted)
    assert page.seconds_of_guidance(10) == 15.0
    assert "15 s a face" in app.cost_line(page, True, 10)
    assert "off" in app.cost_line(page, False, 10)
    assert "off" in app.cost_line(page, True, 0)


def test_a_face_is_matched_with_one_of_several_people(toy: Path) -> None:
    page = Studio(FaceRestorer(toy / "net.pth", device="cpu"), None)
    people = {name: [toy / f"faces/{i}_0.png"] for i, name in enumerate(("Ann", "Bea"))}
    (line,) = page.restore(wish(toy, people=people)).faces
    # the photo itself is in the gallery, so Ann is the nearest: taken, or named in the reason why nobody is
    assert "Ann" in line.person
    assert (line.mode == "ref") == (line.person == "Ann")


def test_a_whole_photo_keeps_its_size_times_the_enlargement(toy: Path) -> None:
    detector = load_detector(toy / "scrfd.onnx", max_side=128)
    page = Studio(FaceRestorer(toy / "net.pth", device="cpu"), detector)
    done = page.restore(wish(toy, photo=toy / "photo.png", is_aligned=False, upscale=2.0))
    assert done.before.shape == done.after.shape == (256, 256, 3)
    assert len(done.faces) == 2


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"photo": "no_picture.png"}, "no_picture.png: no picture"),
        ({"refs": ["no_picture.png"]}, "no_picture.png: no picture"),
        ({"refs": ["faces/0_1.png"], "people": {"Ann": []}}, "Leave one out"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line_without_a_folder(
    changes: dict[str, object], line: str, toy: Path
) -> None:
    known = {"photo": lambda name: toy / str(name), "refs": lambda names: [toy / str(name) for name in names]}
    changes = {key: known.get(key, lambda value: value)(value) for key, value in changes.items()}
    with pytest.raises(UserError, match=line) as caught:
        Studio(FaceRestorer(toy / "net.pth", device="cpu"), None).restore(wish(toy, **changes))
    assert str(toy) not in str(caught.value)


def test_people_of_a_gallery_are_told_by_folders_and_by_the_names_of_photos() -> None:
    names = ["Ann - b.png", "Ann - a.png", "Bea 1.jpg", "Bea_2.jpg", "Bea(3).jpg", "Cid.png", "7.png"]
    people = people_by_name([Path("/up") / name for name in names])
    assert {who: [file.name for file in files] for who, files in people.items()} == {
        "7": ["7.png"],
        "Ann": ["Ann - a.png", "Ann - b.png"],
        "Bea": ["Bea 1.jpg", "Bea(3).jpg", "Bea_2.jpg"],
        "Cid": ["Cid.png"],
    }


def test_a_gallery_goes_on_past_a_photo_that_cannot_be_used_and_is_embedded_once(toy: Path) -> None:
    page, embedded = Studio(FaceRestorer(toy / "net.pth", device="cpu"), None), []
    real = page.restorer.embed
    page.restorer.embed = lambda faces: embedded.append(1) or real(faces)  # type: ignore[method-assign, func-returns-value]
    people = {"Ann": [toy / "no_picture.png", toy / "faces/0_0.png"], "Bea": [toy / "no_picture.png"]}
    for expected in (2, 3):  # the photo itself, and at first Ann's
        done = page.restore(wish(toy, people=people))
        assert len(embedded) == expected
        assert (done.faces[0].person, done.faces[0].mode) == ("Ann", "ref")
        assert len(done.notes) == 2
        assert "no_picture.png: no picture" in done.notes[0]
    with pytest.raises(UserError, match=r"None of the photos .* no_picture.png: no picture"):
        page.restore(wish(toy, people={"Bea": [toy / "no_picture.png"]}))


def test_a_missing_gradio_is_one_line_with_the_command(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(app, "keep_to", lambda _folder: None)  # it changes the process
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(UserError, match=r"pip install 'gradio>=6,<7'"):
        app.main(["--weights", str(toy / "net.pth")])


def test_examples_are_degraded_and_of_one_person_each(tmp_path: Path) -> None:
    examples = make_examples(tmp_path)
    assert len(examples) == EXAMPLE_PEOPLE
    for lq, refs in examples:
        detail = [np.abs(np.diff(imread(path).astype(int), axis=0)).mean() for path in (lq, *refs)]
        assert detail[0] < min(detail[1:])


class Served(NamedTuple):
    """A running page."""

    address: str
    home: Path  # with a folder "temporary"
    process: subprocess.Popen[str]

    @property
    def temporary(self) -> Path:
        return self.home / "temporary"


@pytest.fixture(scope="module")
def served(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("the web page needs gradio: pip install 'gradio>=6,<7'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    (home / "temporary").mkdir()
    variables = {"HOME": str(home), "TMPDIR": str(home / "temporary"), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, str(ROOT / "app.py"), "--weights", str(toy / "net.pth"), "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--port", str(port), "--max_upload_mb", "1"], cwd=home, text=True, stderr=subprocess.PIPE,
        env={**os.environ, **variables},
    ) as process:  # fmt: skip
        address = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.2)
        yield Served(address, home, process)
        process.kill()


@pytest.fixture(scope="module")
def page(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium here to open the page with")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as browser:
        browser.open(served.address)
        browser.wait("document.querySelector('#restore') !== null && document.querySelector('#photo input') !== null")
        yield browser


RESTORED = "[...document.querySelectorAll('#view img')].map(i => i.src).join()"


@pytest.mark.slow
def test_a_photo_and_references_are_uploaded_restored_and_compared(page: Browser, toy: Path) -> None:
    page.upload("#photo input[type=file]", toy / "faces/0_0.png")
    page.wait("document.querySelectorAll('#uploaded img').length === 1")
    page.upload("#refs input[type=file]", toy / "faces/0_1.png", toy / "faces/0_2.png")
    page.wait("document.querySelectorAll('#uploaded img').length === 3")
    page.click("#restore")
    page.wait("[...document.querySelectorAll('#view img')].filter(i => i.naturalWidth === 512).length >= 2")
    assert len(set(page.run(RESTORED).split(","))) == 2  # before and after are two pictures
    page.wait("document.querySelector('#faces').innerText.includes('ref')")
    outside = [url for url in page.requests if not url.startswith(("http://127.0.0.1", "data:", "blob:", "about:"))]
    assert outside == []


@pytest.mark.slow
def test_an_example_fills_the_page_and_is_restored(page: Browser) -> None:
    before = page.run(RESTORED)
    page.click("#examples button.thumbnail-item")
    page.wait("document.querySelector('#photo').innerText.includes('degraded')")
    page.click("#restore")
    page.wait(f"{RESTORED} !== {before!r} && document.querySelectorAll('#view img').length >= 2")
    after = page.run(RESTORED)
    assert after != before
    assert len(set(after.split(","))) == 2


@pytest.mark.slow
def test_a_gallery_is_uploaded_as_a_folder_and_the_face_is_matched_with_its_person(
    page: Browser, toy: Path, served: Served
) -> None:
    page.open(served.address)
    page.wait(
        "document.body.dataset.folders === 'ready' && document.querySelector('#people button.label-wrap') !== null"
    )
    page.click("#people button.label-wrap")
    page.wait("document.querySelector('#gallery input[type=file]') !== null")
    page.upload("#gallery input[type=file]", toy / "family")
    page.wait("document.querySelectorAll('#people_shown img').length === 4")
    page.upload("#photo input[type=file]", toy / "family/Ann/IMG_0.png")
    page.wait("document.querySelectorAll('#uploaded img').length === 1")
    page.click("#restore")
    # which of two people an untrained recogniser finds is chance: the nearest is named, or who were too near each other
    page.wait("/Ann|Bea/.test(document.querySelector('#faces').innerText)")
    text = page.run("document.querySelector('#people_shown').innerText")
    assert "Ann" in text
    assert "Bea" in text
    assert "IMG" not in text


@pytest.mark.slow
def test_a_bad_file_is_shown_as_one_line_without_a_stack_trace(page: Browser, toy: Path, served: Served) -> None:
    page.open(served.address)
    page.wait("document.querySelector('#photo input') !== null")
    page.upload("#photo input[type=file]", toy / "no_picture.png")
    page.wait("document.body.innerText.includes('no_picture.png: no picture in a format')")
    assert "Traceback" not in page.run("document.body.innerText")


@pytest.mark.slow
def test_a_file_above_the_limit_is_refused(page: Browser, served: Served, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1_200_000))
    page.open(served.address)
    page.wait("document.querySelector('#photo input') !== null")
    page.upload("#photo input[type=file]", large)
    page.wait("/exceed|too large|maximum/i.test(document.body.innerText)")
    assert page.run("document.querySelectorAll('#uploaded img').length") == 0
    assert not any(path.stat().st_size > 1_000_000 for path in served.temporary.rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_page_listens_on_this_machine_alone_and_leaves_no_file_behind(served: Served) -> None:
    assert list(served.temporary.iterdir()) != []
    port = int(served.address.rsplit(":", 1)[1].strip("/"))
    with socket.socket() as other:  # on 0.0.0.0 it would be found under any address of the loopback net
        assert other.connect_ex(("127.0.0.2", port)) != 0
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    assert [path for path in served.home.rglob("*") if path.is_file()] == []
    assert list(served.temporary.iterdir()) == []


def test_the_folder_of_a_page_goes_with_it_also_when_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    script = (
        "import signal, sys, pathlib, time; from _guardian import guarded\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "with guarded(pathlib.Path(sys.argv[1])): print('there', flush=True); time.sleep(600)"
    )
    for end in (signal.SIGKILL, signal.SIGINT):
        (folder / "gradio").mkdir(parents=True)
        (folder / "gradio/photo.png").write_bytes(b"someone's face")
        with subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], cwd=ROOT / "scripts", stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            assert folder.is_dir()
            process.send_signal(end)
        for _ in range(300):
            if not folder.exists():
                break
            time.sleep(0.1)
        assert not folder.exists(), end
