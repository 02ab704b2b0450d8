"""Video files written: frames into parts, parts into one file beside the sound of the source.

Shapes: H, W frame.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from basicsr.inference.video_file import import_av, opened
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image

CODEC, PIXELS = "libx264", "yuv420p"  # as upstream: what every player reads
# by the numbers of H.273, which swscale shares
MATRICES = {1, 4, 5, 7, 9}  # BT.709, FCC, BT.601, SMPTE 240M, BT.2020
ALSO_BT601 = {2, 6}  # unspecified, SMPTE 170M
STUDIO_RANGE = 1  # 16 .. 235, of every result


def even(image: Image) -> Image:
    """With even height and width, as halved colour needs: the last row or column is repeated where one is missing."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return image


class SegmentWriter:
    """Encodes a part of a video into a file of its own, written under a temporary name until `close`.

    No frame refers to a later one, so that packets are in the order of the frames and parts can be joined.

    Args:
        crf: of x264: 0 lossless .. 51.
    """

    def __init__(self, path: Path, size: tuple[int, int], colours: dict[str, Any], crf: int) -> None:
        av = import_av()
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._av = av
        self.number = 0
        try:
            self.container = av.open(str(self.temporary), "w", format="matroska")
            self.stream = self.container.add_stream(CODEC, rate=25)  # times are given when the parts are joined
        except (av.FFmpegError, av.codec.codec.UnknownCodecError, OSError) as error:
            raise UserError(f"{path}: cannot be written as {CODEC} ({error}).") from error
        self.stream.height, self.stream.width = size
        self.stream.pix_fmt = PIXELS
        self.stream.options = {"crf": str(crf), "bf": "0", "preset": "medium"}
        self.matrix = matrix_of(colours["colorspace"])
        claimed = colours["colorspace"] if colours["colorspace"] in ALSO_BT601 else self.matrix
        for tag, value in {**colours, "colorspace": claimed, "color_range": STUDIO_RANGE}.items():
            setattr(self.stream.codec_context, tag, value)

    def write(self, image: Image) -> None:
        """Encode a frame, uint8 BGR, of the size that was said.

        Raises:
            UserError: the disk is full, or the like.
        """
        frame = self._av.VideoFrame.from_ndarray(image, format="bgr24")
        size = self.stream.width, self.stream.height  # of a stream that changes its size the first one is kept
        frame = frame.reformat(*size, format=PIXELS, dst_colorspace=self.matrix)
        frame.pts = self.number
        frame.time_base = Fraction(1, 25)
        self.number += 1
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        try:
            self.container.mux(self.stream.encode(frame))
        except (self._av.FFmpegError, OSError) as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}).") from error

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._mux(None)
        self.container.close()
        os.replace(self.temporary, self.path)

    def abandon(self) -> None:
        """Leave no file behind."""
        self.container.close()
        self.temporary.unlink(missing_ok=True)


def matrix_of(colorspace: int) -> int:
    """The matrix that turns RGB into the colours that a stream claims; BT.601 where it claims none, as in decoding."""
    return colorspace if colorspace in MATRICES else 5


def count_packets(path: Path) -> int:
    """Frames of a part that was written by SegmentWriter; 0 where it is none."""
    try:
        with opened(path) as container:
            return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
    except ImageFileError:
        return 0


def join_segments(
    parts: Sequence[Path], times: Sequence[tuple[int, int]], time_base: Fraction, source: Path, target: Path
) -> None:
    """Write the parts one after the other, with the sound of `source`; nothing is encoded again.

    Args:
        times: of each frame of all parts: when it is shown and how long, in units of `time_base`.
        target: its ending decides the container. Written beside the parts, then renamed.
    Raises:
        UserError: it cannot be written.
    """
    av = import_av()
    temporary = parts[0].with_name(f"joined{target.suffix}")  # a kill leaves it where the next run clears up
    options = {"movflags": "+faststart"} if target.suffix == ".mp4" else {}
    if target.suffix == ".mp4" and time_base.numerator == 1:
        options["video_track_timescale"] = str(time_base.denominator)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(source) as sound, av.open(str(temporary), "w", options=options) as out, opened(parts[0]) as first:
            video = out.add_stream_from_template(first.streams.video[0])
            video.time_base = time_base
            copies = {audio.index: out.add_stream_from_template(audio) for audio in sound.streams.audio}
            pictures = _timed(_packets(parts), times, time_base, video)
            voices = _copied(sound, copies)
            for _, _, packet in heapq.merge(pictures, voices, key=lambda item: item[:2]):
                out.mux(packet)
        os.replace(temporary, target)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{target}: cannot be written ({getattr(error, 'strerror', None) or error}).") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _packets(parts: Iterable[Path]) -> Iterator[Any]:
    """The packets of all parts, a frame each."""
    for part in parts:
        with opened(part) as container:
            yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size > 0)


def _timed(
    packets: Iterable[Any], times: Sequence[tuple[int, int]], time_base: Fraction, stream: Any
) -> Iterator[tuple[float, int, Any]]:
    """(s, rank, packet) of the pictures."""
    for packet, (pts, duration) in zip(packets, times, strict=True):
        packet.time_base = time_base
        packet.pts = packet.dts = pts
        packet.duration = duration
        packet.stream = stream
        yield float(pts * time_base), 0, packet


def _copied(sound: Any, copies: dict[int, Any]) -> Iterator[tuple[float, int, Any]]:
    """(s, rank, packet) of the sound."""
    if not copies:
        return
    for packet in sound.demux(*sound.streams.audio):
        if packet.dts is not None:
            packet.stream = copies[packet.stream.index]
            yield float(packet.dts * packet.time_base), 1, packet
