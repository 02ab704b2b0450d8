"""The head as a surface: relief, light on it, head turn, and the alignment to the FFHQ frame.

The head lives in head space: x, y as in the 512-px FFHQ frame (x from the middle), z towards the camera, pixels. A
turned head is drawn by asking, for every pixel of the picture, which point of the unturned head it shows
(`View.head_points`).

Shapes: N side of the inner picture; C side of the coarse grid; Gy, Gx the relief's grid; P points.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.data.face_traits import Person, Photo

Floats = NDArray[Any]  # float32 (float64 in between): type checkers cannot follow NumPy's promotions

FRAME = 512  # px, the frame that all lengths are stated in
# facexlib's FFHQ-512 template: left-image eye, right-image eye, nose tip, left and right mouth corner
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
EYE_Y = 240.0
HEAD_TOP, HEAD_MIDDLE = 58.0, 262.0  # y
HEAD_DEPTH = 105.0
RELIEF_STEP = 5.0
GRID_X = np.arange(-170, 171, RELIEF_STEP, dtype=np.float32)
GRID_Y = np.arange(40, 506, RELIEF_STEP, dtype=np.float32)
COARSE = 64  # the head turn is smooth: solved on a grid of this side or a quarter of the picture's, then enlarged
PIVOT_Y = 300.0


def bump(values: Floats, width: float | Floats) -> Floats:
    """About exp(-(values / width)^2), as (1 - t/4)^4: a few times quicker, and 0 beyond 2 widths."""
    scaled = values * (0.5 / width)
    falling = np.maximum(1 - scaled * scaled, 0)
    falling *= falling
    falling *= falling
    return falling


def mouth_half_width(person: Person, photo: Photo) -> float:
    return person.mouth_width * (1 + 0.13 * photo.smile - 0.08 * photo.mouth_open)


def mouth_corner_y(person: Person, photo: Photo) -> float:
    return person.mouth_y - person.mouth_curve - 7 * photo.smile


class Relief:
    """Height of the face, its outline and the light on it, on the grid GRID_Y x GRID_X of the unturned head.

    height: px towards the camera. outline: 0 in the middle of the face, 1 on its edge. All float32 (Gy, Gx).
    """

    def __init__(self, person: Person, photo: Photo) -> None:
        self.person, self.photo = person, photo
        self.chin_y = person.chin_y + 9 * photo.mouth_open
        self.outline = self._outline()
        dome = np.sqrt(np.clip(1 - self.outline, 0, None) + 0.15) - np.sqrt(0.15)
        self.height = cv2.GaussianBlur((HEAD_DEPTH / 0.685 * dome).astype(np.float32), (0, 0), 1.2) + self._features()

    def _outline(self) -> Floats:
        """Two superellipses that meet at the cheekbones; the lower one narrows towards the chin."""
        person = self.person
        upper = np.clip((HEAD_MIDDLE - GRID_Y) / (HEAD_MIDDLE - HEAD_TOP), 0, None)
        lower = np.clip((GRID_Y - HEAD_MIDDLE) / (self.chin_y - HEAD_MIDDLE), 0, None)
        fullness = person.cheek_fullness * np.exp(-(((GRID_Y - 350) / 50) ** 2))
        narrowing = person.jaw_taper * np.minimum(lower, 1.3) ** 1.5 + 0.09 * upper**2
        half = (person.face_width * (1 - narrowing) + fullness)[:, None]
        vertical = upper**2.3 + lower**person.jaw_square
        across = np.abs(GRID_X)[None] / half
        return (across * across * np.sqrt(np.sqrt(across)) + vertical[:, None]).astype(np.float32)

    def _features(self) -> Floats:
        """What stands out of the dome of the head: sums of separable bumps, (Gy, Gx)."""
        person, photo = self.person, self.photo
        total = np.zeros((len(GRID_Y), len(GRID_X)), np.float32)

        def add(x: float, y: float, width: float, tall: float, height: float) -> None:
            across = bump(GRID_X - x, width) + (bump(GRID_X + x, width) if x else 0)
            np.add(total, np.outer(height * bump(GRID_Y - y, tall), across), out=total)

        add(person.eye_distance, EYE_Y - 2, 36, 24, -person.eye_depth)
        add(person.eye_distance, EYE_Y, 21, 15, 8)
        add(48, EYE_Y + person.brow_y, 42, 13, person.brow_ridge)
        add(84, 290, 34, 28, person.cheekbone)
        add(78, 352, 30, 36, 0.9 * person.cheek_fullness + 5 * photo.smile)
        add(0, 362, 48, 40, 9)
        add(
            0,
            person.mouth_y - person.lip_upper * 0.6,
            mouth_half_width(person, photo) * 0.75,
            8,
            0.4 * person.lip_upper,
        )
        add(
            0, person.mouth_y + person.lip_lower * 0.6, mouth_half_width(person, photo) * 0.6, 9, 0.4 * person.lip_lower
        )
        add(0, person.mouth_y + person.lip_lower + 18, 34, 10, -6)
        add(0, self.chin_y - 28, 28, 20, person.chin_boss)
        total += self._nose()
        return total

    def _nose(self) -> Floats:
        person = self.person
        along = np.clip((GRID_Y - 222) / (person.nose_y - 222), 0, None)
        ridge = np.where(along < 1, along**1.25, np.exp(-(((GRID_Y - person.nose_y) / 13) ** 2))) * person.nose_height
        ridge = ridge + person.nose_hump * np.exp(-(((GRID_Y - 0.5 * (222 + person.nose_y)) / 18) ** 2))
        width = person.nose_bridge + (person.nose_tip - person.nose_bridge) * np.clip(along, 0, 1) ** 2
        nose = ridge[:, None] * np.exp(-((GRID_X[None] / width[:, None]) ** 2))
        wings = bump(np.abs(GRID_X) - 0.72 * person.nose_width, 0.36 * person.nose_width)
        return (nose + np.outer(0.38 * person.nose_height * bump(GRID_Y - person.nose_y - 2, 12), wings)).astype(
            np.float32
        )

    def light(self) -> tuple[Floats, Floats]:
        """Brightness of the surface (about 0.3..1.3) and gloss (0..1) in the light of the photo, (Gy, Gx) each."""
        photo = self.photo
        azimuth = math.radians(photo.light_azimuth - photo.yaw)
        elevation = math.radians(photo.light_elevation - photo.pitch)
        lamp = (math.sin(azimuth) * math.cos(elevation), -math.sin(elevation), math.cos(azimuth) * math.cos(elevation))
        smooth = cv2.GaussianBlur(self.height, (0, 0), 0.7)
        slope_x = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1, scale=0.5 / RELIEF_STEP)
        slope_y = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1, scale=0.5 / RELIEF_STEP)
        size = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
        facing = (lamp[2] - lamp[0] * slope_x - lamp[1] * slope_y) * size
        diffuse = np.maximum((facing + 0.25) / 1.25, 0) * self._unshadowed(smooth, lamp)
        hollow = np.clip(1 + 0.022 * (smooth - cv2.GaussianBlur(smooth, (0, 0), 5)), 0.55, 1.12)
        sky = 0.88 - 0.12 * slope_y * size  # surfaces that look up get more of the ambient light
        brightness = (photo.ambient * sky + (1.26 - photo.ambient) * diffuse) * hollow
        length = math.sqrt(2 + 2 * lamp[2])  # of the sum of the directions to the lamp and to the camera
        mirrored = np.maximum((facing + size) / length, 0)
        gloss = mirrored**2
        gloss *= gloss
        gloss *= gloss
        gloss *= gloss * gloss  # the 24th power
        return brightness, gloss

    def _unshadowed(self, height: Floats, light: tuple[float, float, float]) -> Floats:
        """1 where the lamp is seen, down to 0.45 in shadows that the relief casts (the nose's, mostly)."""
        blocked = np.zeros_like(height)
        across = math.hypot(light[0], light[1])
        if across < 0.05:
            return blocked + 1
        for distance in (12.0, 24.0, 36.0, 52.0):
            step = distance / across / RELIEF_STEP
            offset = np.array([[1, 0, step * light[0]], [0, 1, step * light[1]]], np.float32)
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            there = cv2.warpAffine(height, offset, height.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            np.maximum(blocked, there - height - distance * light[2] / across, out=blocked)
        return 1 - 0.55 * cv2.GaussianBlur(np.clip(blocked / 8, 0, 1), (0, 0), 1.2)

    def sample(self, field: Floats, x: Floats, y: Floats, smooth: bool = False) -> Floats:
        """Values of `field` (Gy, Gx) or (Gy, Gx, n) at the head-space points x, y (h, w) -> (h, w) or (h, w, n)."""
        method = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
        columns = (x - GRID_X[0]) * np.float32(1 / RELIEF_STEP)
        rows = (y - GRID_Y[0]) * np.float32(1 / RELIEF_STEP)
        values: Floats = cv2.remap(field, columns, rows, method, borderMode=cv2.BORDER_REPLICATE)
        return values


class View:
    """The camera: head turn, then the similarity that a face aligner would find from the five landmarks."""

    def __init__(self, relief: Relief) -> None:
        self.relief, photo = relief, relief.photo
        yaw, pitch = np.deg2rad(photo.yaw), np.deg2rad(-photo.pitch)
        self._turn = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        flat = self._project(*self._landmarks())
        target = TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
        centred = flat - flat.mean()
        scale = np.vdot(centred, target - target.mean()) / np.vdot(centred, centred)
        jitter = photo.zoom * np.exp(1j * np.deg2rad(photo.turn))
        self._scale = scale * jitter
        self._offset = target.mean() + complex(*photo.shift) - self._scale * flat.mean()
        landmarks = self._scale * flat + self._offset
        self.landmarks = np.stack([landmarks.real, landmarks.imag], 1)  # (5, 2), px of the 512 frame

    def _landmarks(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        person, photo = self.relief.person, self.relief.photo
        mouth, corner_y = mouth_half_width(person, photo), mouth_corner_y(person, photo)
        x = np.array([-person.eye_distance, person.eye_distance, 0, -mouth, mouth], np.float32)
        y = np.array([EYE_Y, EYE_Y, person.nose_y, corner_y, corner_y], np.float32)
        z = self.relief.sample(self.relief.height, x[:, None], y[:, None])[:, 0]
        return x.astype(np.float64), y.astype(np.float64), z.astype(np.float64)

    def _project(
        self, x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
    ) -> NDArray[np.complex128]:
        """Head space -> flat picture of the turned head, as complex x + iy."""
        cos_yaw, sin_yaw, cos_pitch, sin_pitch = self._turn
        depth = z * cos_yaw - x * sin_yaw
        return x * cos_yaw + z * sin_yaw + 1j * ((y - PIVOT_Y) * cos_pitch - depth * sin_pitch + PIVOT_Y)

    def _flat(self, size: int) -> tuple[Floats, Floats]:
        """Flat-picture coordinates of the pixel centres of a (size, size) picture."""
        centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(FRAME / size)
        inverse = 1 / self._scale
        corner = (-0.5 - 0.5j - self._offset) * inverse
        cosine, sine = np.float32(inverse.real), np.float32(inverse.imag)
        x = (cosine * centres + np.float32(corner.real))[None] - (sine * centres)[:, None]
        y = (sine * centres)[None] + (cosine * centres + np.float32(corner.imag))[:, None]
        return x, y

    def head_points(self, size: int) -> tuple[Floats, Floats]:
        """Head-space x, y (size, size) that each pixel shows: a fixed point, because depth bends the ray's way."""
        flat_x, flat_y = self._flat(max(COARSE, size // 4))
        x, y = flat_x, flat_y
        for _ in range(5):
            x, y = self._unproject(flat_x, flat_y, self.relief.sample(self.relief.height, x, y))
        return _enlarge(x, size), _enlarge(y, size)

    def plane_points(self, size: int, depth: float) -> tuple[Floats, Floats]:
        """Head-space x, y (size, size) of the plane z = depth: for ears, glasses, hair behind the head."""
        return self._unproject(*self._flat(size), np.float32(depth))

    def _unproject(self, flat_x: Floats, flat_y: Floats, z: Floats | np.float32) -> tuple[Floats, Floats]:
        cos_yaw, sin_yaw, cos_pitch, sin_pitch = (np.float32(value) for value in self._turn)
        x = (flat_x - z * sin_yaw) * (1 / cos_yaw)
        depth = z * cos_yaw - x * sin_yaw
        return x, (flat_y + (depth * sin_pitch - np.float32(PIVOT_Y))) * (1 / cos_pitch) + np.float32(PIVOT_Y)


def _enlarge(coarse: Floats, size: int) -> Floats:
    """(C, C) -> (size, size). Cubic, and straight beyond the outermost centres, where cv2 would stand still."""
    padded = np.pad(coarse, 2, mode="reflect", reflect_type="odd")
    margin = round(2 * size / len(coarse))
    whole = size + 2 * margin
    large: Floats = cv2.resize(padded, (whole, whole), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[margin : margin + size, margin : margin + size])
