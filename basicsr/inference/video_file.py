"""Video files read: frames one at a time, with their time stamps. basicsr/inference/video_write.py writes them.

The only file that imports PyAV, which is an extra: pip install 'id-codeformer[av]'.

Shapes: H, W frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")  # the first three are upstream's
MP4_SOUND = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")  # goes into .mp4 as it is; other sound into .mkv
COLOUR_TAGS = ("color_primaries", "color_trc", "colorspace")
MICROSECONDS = 1e6  # in a second: what a container counts its length in
MISSING_END = 1.0  # s that a video may end before the length that it says


class Frame(NamedTuple):
    """A decoded picture of a video."""

    image: Image  # uint8 BGR (H, W, 3), upright, of square pixels
    pts: int  # when it is shown, in units of the stream's time base
    duration: int  # how long, 0 where the file does not say


class VideoFacts(NamedTuple):
    """What is known of a video before its frames are decoded."""

    time_base: Fraction  # s
    num_frames: int | None  # as the container says
    sound: tuple[str, ...]  # codecs of the sound
    colours: dict[str, Any]  # COLOUR_TAGS of the stream


def import_av() -> Any:
    """PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("videos need PyAV: pip install 'av>=14.2'. Or hand the frames over as a folder.") from error
    return av


def is_video(path: Path) -> bool:
    """Whether a file is taken for a video: by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def opened(path: Path) -> Any:
    av = import_av()
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageFileError(
            f"{path}: cannot be read as a video, it is cut off or of another kind ({reason})."
        ) from error
    if not container.streams.video:
        container.close()
        raise ImageFileError(f"{path}: holds no pictures, only sound. Expected a video.")
    return container


def video_facts(path: Path) -> VideoFacts:
    """Time base, number of frames, sound and colours.

    Raises:
        ImageFileError: missing, broken, or no video.
    """
    with opened(path) as container:
        stream = _pictures(container)
        tags = {tag: getattr(stream.codec_context, tag) for tag in COLOUR_TAGS}
        sound = tuple(audio.codec_context.name for audio in container.streams.audio)
        return VideoFacts(Fraction(stream.time_base), stream.frames or None, sound, tags)


def read_frames(path: Path, first: int = 0) -> Iterator[Frame]:
    """The frames of a video in the order in which they are shown, of which only a few are in memory.

    What cannot be decoded is passed over, as players do: the frames before and after it keep their times.

    Args:
        first: so many frames are passed over: decoded, since others build on them, but not converted.
    Raises:
        ImageFileError: the video cannot be opened; or, when all that can be read has been handed out, some of it is
            damaged or missing.
    """
    av = import_av()
    with opened(path) as container:
        stream = _pictures(container)
        aspect = float(stream.sample_aspect_ratio or 1)
        stream.thread_type = "AUTO"
        number, last_pts, num_damaged, end = -1, None, 0, 0.0
        try:
            for packet in container.demux(stream, *container.streams.audio):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index:
                    continue
                frames = _decoded(packet)
                num_damaged += frames is None
                for frame in frames or ():
                    number += 1
                    num_damaged += frame.is_corrupt
                    pts = frame.pts if frame.pts is not None else (0 if last_pts is None else last_pts + 1)
                    last_pts = pts if last_pts is None else max(pts, last_pts + 1)  # players need rising times
                    if number >= first:
                        yield Frame(_upright(frame, aspect), last_pts, int(frame.duration or 0))
        except av.FFmpegError as error:
            raise ImageFileError(f"{path}: breaks after frame {number} ({error.strerror}).") from error
        missing = ((container.duration or 0) + (container.start_time or 0)) / MICROSECONDS - end
    if number < 0:
        raise ImageFileError(f"{path}: holds no frame that can be decoded.")
    if num_damaged:
        raise ImageFileError(f"{path}: {num_damaged} frames are damaged or missing in the middle.")
    if missing > MISSING_END:
        raise ImageFileError(f"{path}: is cut off, the last {missing:.1f} s are missing.")


def _decoded(packet: Any) -> list[Any] | None:
    """The frames of a packet; None where it is damaged."""
    try:
        return list(packet.decode())
    except import_av().InvalidDataError:
        return None


def _pictures(container: Any) -> Any:
    """The stream of pictures; a cover that lies in the file beside it is none."""
    return container.streams.best("video")


def _upright(frame: Any, aspect: float) -> Image:
    """The pixels, square, and turned as a telephone that was held upright says.

    Args:
        aspect: width of a stored pixel by its height, as of DV and DVD.
    """
    size = round(frame.width * max(aspect, 1)), round(frame.height / min(aspect, 1))
    image = frame.reformat(*size, format="bgr24").to_ndarray()
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))
