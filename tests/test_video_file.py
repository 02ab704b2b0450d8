"""Video files as cameras, telephones and editors leave them: what is read is upright and of the right colours, what is
written has the times, the sound and the colours of the source."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_toys import packets_of, write_clip

from basicsr.inference.video import video_output
from basicsr.inference.video_file import import_av, read_frames, video_facts
from basicsr.inference.video_write import SegmentWriter, even, join_segments, matrix_of
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image

pytest.importorskip("av", reason="PyAV is not installed: pip install 'av>=14.2'")

RED, BLUE = (20, 30, 220), (200, 60, 40)  # BGR
FULL_RANGE, LIMITED_RANGE = 2, 1


def halves(height: int = 48, width: int = 64) -> Image:
    """Red above, blue below."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2], image[height // 2 :] = RED, BLUE
    return image


def write_stored(path: Path, image: Image, pixels: str, codec: str = "ffv1", matrix: int = 2, wide: int = 1) -> Path:
    """Three frames in a pixel format; `matrix` and range are tagged, and colours are by them; `wide`: pixel aspect."""
    av = import_av()
    studio = FULL_RANGE if pixels.startswith("yuvj") else LIMITED_RANGE
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(30000, 1001))
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, studio
        stream.codec_context.sample_aspect_ratio = Fraction(wide, 1)
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame = frame.reformat(format=pixels, dst_colorspace=matrix_of(matrix), dst_color_range=studio)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def passed_on(source: Path, folder: Path) -> Path:
    """The frames of a video written as a restored video is."""
    facts, frames = video_facts(source), list(read_frames(source))
    first = even(frames[0].image)
    part = folder / "000000.mkv"
    writer = SegmentWriter(part, (first.shape[0], first.shape[1]), facts.colours, crf=1)
    for frame in frames:
        writer.write(even(frame.image))
    writer.close()
    times = [(frame.pts, frame.duration) for frame in frames]
    target = folder / "result.mp4"
    join_segments([part], times, facts.time_base, source, target)
    return target


def turned(path: Path) -> Path:
    """The clip with a note that it is to be turned by 90 degrees clockwise, as telephones write it."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # of the matrix, in 16.16 and 2.30 fixed point
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def difference(one: Image, other: Image) -> int:
    """The largest of the halves' middles."""
    places = [(len(one) // 4, 20), (3 * len(one) // 4, 20)]
    return max(int(np.abs(one[y, x].astype(int) - other[y, x]).max()) for y, x in places)


@pytest.mark.parametrize(
    ("pixels", "matrix"),
    [("yuv420p", 1), ("yuv420p", 6), ("yuv420p", 9), ("yuvj420p", 6), ("yuvj420p", 2), ("yuv444p", 2), ("bgr0", 0)],
)
def test_colours_are_kept_whatever_the_source_says_of_them(pixels: str, matrix: int, tmp_path: Path) -> None:
    codec = "mjpeg" if pixels.startswith("yuvj") else "ffv1"
    source = write_stored(tmp_path / "a.mkv", halves(), pixels, codec, matrix)
    image = next(read_frames(source)).image
    assert difference(image, halves()) <= 8  # JPEG, and 8 bits of a limited range
    result = passed_on(source, tmp_path)
    assert difference(next(read_frames(result)).image, image) <= 6
    with import_av().open(str(result)) as container:
        frame = next(container.decode(video=0))
    assert frame.color_range != FULL_RANGE
    claimed = video_facts(source).colours["colorspace"]
    assert frame.colorspace == (claimed if claimed != 0 else 5), "RGB becomes BT.601"


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuva420p", "bgra", "gray", "yuv422p"])
def test_deep_transparent_and_gray_pictures_are_read(pixels: str, tmp_path: Path) -> None:
    image = halves() if pixels != "gray" else np.full((48, 64, 3), 90, np.uint8)
    frames = list(read_frames(write_stored(tmp_path / "a.mkv", image, pixels)))
    assert len(frames) == 3
    assert difference(frames[2].image, image) <= 4


def test_a_telephone_that_was_held_upright_gives_upright_frames(tmp_path: Path) -> None:
    clip = turned(write_clip(tmp_path / "a.mp4", [halves()] * 3, [0, 1000, 2000], sound=None))
    image = next(read_frames(clip)).image
    assert image.shape == (64, 48, 3)
    left, right = image[32, 12], image[32, 36]  # what was above comes to the right
    assert np.abs(left.astype(int) - BLUE).max() < 10
    assert np.abs(right.astype(int) - RED).max() < 10
    result = next(read_frames(passed_on(clip, tmp_path))).image
    assert result.shape == image.shape
    assert np.abs(result[32, 36].astype(int) - RED).max() < 10


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    source = write_stored(tmp_path / "a.mp4", halves(), "yuv420p", "libx264", wide=2)
    assert next(read_frames(source)).image.shape == (48, 128, 3)
    assert next(read_frames(passed_on(source, tmp_path))).image.shape == (48, 128, 3)


def test_odd_sides_grow_by_a_pixel_and_no_sound_stays_no_sound(tmp_path: Path) -> None:
    source = write_stored(tmp_path / "a.mkv", halves(49, 63), "yuv444p")
    result = passed_on(source, tmp_path)
    assert next(read_frames(result)).image.shape == (50, 64, 3)
    assert video_facts(result).sound == ()


def test_a_rate_of_30000_by_1001_stays_exact(tmp_path: Path) -> None:
    base, step = Fraction(1, 30000), 1001
    clip = write_clip(tmp_path / "a.mp4", [halves()] * 40, [step * i for i in range(40)])
    result = passed_on(clip, tmp_path)
    assert video_facts(result).time_base == base
    assert [frame.pts for frame in read_frames(result)] == [step * i for i in range(40)]
    with import_av().open(str(result)) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
    assert packets_of(result, "audio") == packets_of(clip, "audio")
    assert sound_starts(result) == sound_starts(clip)


def test_an_avi_that_counts_in_whole_frames_keeps_its_rate(tmp_path: Path) -> None:
    source = write_stored(tmp_path / "a.avi", halves(), "yuvj420p", "mjpeg")
    assert video_facts(source).time_base == Fraction(1001, 30000)
    with import_av().open(str(passed_on(source, tmp_path))) as container:
        stream = container.streams.video[0]
        assert [packet.pts * packet.time_base * 30000 for packet in container.demux(stream) if packet.size] == [
            0, 1001, 2002,
        ]  # fmt: skip


def sound_starts(path: Path) -> list[Any]:
    """When each packet of the sound is heard, s."""
    with import_av().open(str(path)) as container:
        stream = container.streams.audio[0]
        return [packet.pts * packet.time_base for packet in container.demux(stream) if packet.size]


def test_a_video_that_is_spoilt_in_the_middle_is_read_past_the_damage_and_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(30)]
    data = bytearray(write_clip(tmp_path / "a.mp4", noisy, [1000 * i for i in range(30)], sound=None).read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 4000] = bytes(4000)
    spoilt = tmp_path / "spoilt.mp4"
    spoilt.write_bytes(data)
    times, error = readable(spoilt)
    assert re.fullmatch(rf"{spoilt}: \d frames are damaged or missing in the middle\.", error or "")
    assert 20 < len(times) <= 30
    assert times[-1] == 29_000, "what comes after the damage is there, at its time"
    assert readable(spoilt) == (times, error), "the second look at a video sees what the first one saw"


def test_a_video_that_is_cut_off_says_how_much_is_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(30)]
    whole = write_clip(tmp_path / "a.mkv", noisy, [6000 * i for i in range(30)])
    assert readable(whole)[1] is None
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    times, error = readable(cut)
    assert 8 < len(times) < 22
    assert re.fullmatch(rf"{cut}: is cut off, the last [23]\.\d s are missing\.", error or "")


def readable(path: Path) -> tuple[list[int], str | None]:
    """The times of the frames that can be read, and what is said then."""
    times = []
    try:
        for frame in read_frames(path):
            times.append(frame.pts)
    except ImageFileError as error:
        return times, str(error)
    return times, None


def test_a_result_is_never_written_over_its_source(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", [halves()] * 2, [0, 1000], sound=None)
    with pytest.raises(ImageFileError, match="written over it"):
        video_output(clip, tmp_path, None)
    assert video_output(clip, tmp_path, "x").name == "a_x.mp4"
