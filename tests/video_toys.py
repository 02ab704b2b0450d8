"""Small clips for the tests of video: generated faces that move over a background, with a sine as sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr.data.generated_faces import person_at, photo_at, render
from basicsr.faces import Face
from basicsr.faces.align import FFHQ_512
from basicsr.utils.img_util import Image

SIZE = (96, 160)  # px, height and width of a frame
SIDE = 40  # px, of a face
RATE = 44100  # of the sound, 1/s
TIME_BASE = Fraction(1, 30000)  # s
BACKGROUND = (30, 90, 30)  # BGR: dark red and blue


def place_of(person: int, frame: int) -> tuple[int, int]:
    """Left and top of a face: person 0 goes right, person 1 left, below."""
    return (10 + 2 * frame, 4) if person == 0 else (110 - 2 * frame, 50)


def frame_of(number: int, people: Sequence[int]) -> Image:
    """A frame, uint8 BGR, with the faces of these people."""
    image = np.empty((*SIZE, 3), np.uint8)
    image[:] = BACKGROUND
    image[::8] = (40, 70, 20)
    for person in people:
        face = render(person_at(5, person), photo_at(5, person, 0), SIDE)
        left, top = place_of(person, number)
        image[top : top + SIDE, left : left + SIDE] = np.maximum(face, (120, 0, 120))
    return image


class ColourDetector:
    """Finds the toy faces, which alone have much red and blue, as FFHQ framing puts them into their squares."""

    def __init__(self) -> None:
        self.num_calls = 0

    def detect(self, image: Image) -> list[Face]:
        self.num_calls += 1
        mask = ((image[..., 2] > 80) & (image[..., 0] > 80)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        faces = []
        for left, top, width, height, area in stats[1:]:
            if area > 200:
                landmarks = FFHQ_512 / 512 * (width, height) + (left, top)
                box = np.array([left, top, left + width, top + height], np.float32)
                faces.append(Face(box, 0.9, landmarks.astype(np.float32)))
        return faces


def uneven_times(count: int) -> list[int]:
    """Time stamps of a stream whose frame rate varies, in TIME_BASE."""
    return [1001 * i + (1001 if i > count // 2 else 0) + 200 * (i % 2) for i in range(count)]


def write_clip(path: Path, frames: Sequence[Image], times: Sequence[int], sound: str | None = "aac") -> Path:
    """A clip of these frames, shown at `times` (in TIME_BASE), with a sine of 440 Hz as sound."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        video.time_base = video.codec_context.time_base = TIME_BASE
        video.options = {"crf": "10"}
        audio = container.add_stream(sound, rate=RATE) if sound else None
        for image, pts in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = pts, TIME_BASE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            count = int(RATE * float(times[-1] * TIME_BASE)) // 1024 * 1024
            wave = np.sin(2 * np.pi * 440 / RATE * np.arange(count)).astype(np.float32)
            for start in range(0, count, 1024):
                planar = audio.codec_context.format.is_planar
                block = wave[None, start : start + 1024] if planar else (wave[None, start : start + 1024] * 2**15)
                block = block if planar else block.astype(np.int16)
                piece = av.AudioFrame.from_ndarray(block, format=audio.codec_context.format.name, layout="mono")
                piece.sample_rate, piece.pts = RATE, start
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


def packets_of(path: Path, kind: str) -> list[bytes]:
    """What the packets of the first stream of a kind hold."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        streams = container.streams.video if kind == "video" else container.streams.audio
        return [bytes(packet) for packet in container.demux(streams[0]) if packet.size]
