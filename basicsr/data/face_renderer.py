"""Puts a generated photo together: backdrop, hair, neck, ears, the shaded face, accessories, the camera.

Shapes: S side of the inner picture (supersampled), in planes (3, S, S), BGR float32 in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from basicsr.data import face_features as features
from basicsr.data.face_canvas import Canvas, Floats, blend, clip01, hair_colour, noise, skin_colour
from basicsr.data.face_geometry import EYE_Y, FRAME, HEAD_MIDDLE, HEAD_TOP, Relief, View, bump
from basicsr.data.face_traits import Person, Photo

EAR_DEPTH, BACK_DEPTH, GLASSES_DEPTH = 5.0, -20.0, 78.0  # z of flat parts, px
HAIRLINE_X = np.arange(-256, 257, 2, dtype=np.float32)  # the hairline depends on x alone: a table
EAR_Y = 272.0


def render_face(person: Person, photo: Photo, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw the photo.

    Returns:
        Picture uint8 BGR (size, size, 3); landmarks float32 (5, 2) x, y as pixel indices of that picture.
    """
    inner = 64 * max(1, round(size / 64)) * (2 if size <= 256 else 1)
    relief = Relief(person, photo)
    view = View(relief)
    picture = Canvas(*view.head_points(inner), _backdrop(photo, inner))
    cloud = noise(picture.x * np.float32(0.05) + np.float32(person.hair_seed), picture.y * np.float32(0.05))
    strands = _strands(picture.x, picture.y, person, cloud)
    ragged = np.float32(1 + 6 * person.hair_curl) * cloud
    behind = Canvas(*view.plane_points(inner, BACK_DEPTH), picture.pixels)
    _paint_back_hair(behind, person, strands, ragged)
    _paint_neck(behind, person, relief.chin_y)
    _paint_cloth(behind, photo)
    _paint_ears(Canvas(*view.plane_points(inner, EAR_DEPTH), picture.pixels), person, photo)
    hairline = _hairline(picture.x, person)
    _paint_head(picture, person, photo, relief, hairline, cloud)
    _paint_front_hair(picture, person, strands, hairline, ragged)
    if photo.hat:
        _paint_hat(picture, person, photo)
    if photo.glasses:
        _paint_glasses(Canvas(*view.plane_points(inner, GLASSES_DEPTH), picture.pixels), person, photo)
    landmarks = (view.landmarks + 0.5) * (size / FRAME) - 0.5
    return _camera(picture.pixels, photo, size), landmarks.astype(np.float32)


def _backdrop(photo: Photo, size: int) -> Floats:
    """Out-of-focus blobs between two colours, (3, S, S)."""
    colours = np.asarray(photo.backdrop, np.float32).reshape(2, 3, 1, 1)
    steps = np.linspace(0, 3.2, 16, dtype=np.float32)
    x, y = np.meshgrid(steps + np.float32(photo.backdrop_seed), steps)
    share = cv2.resize(clip01(0.5 + 0.33 * noise(x, y)), (size, size), interpolation=cv2.INTER_CUBIC)
    return colours[0] + (colours[1] - colours[0]) * share


def _strands(x: Floats, y: Floats, person: Person, cloud: Floats) -> Floats:
    """Brightness of single locks, about 1 +- 0.3, (S, S): noise drawn out along lines that leave the parting."""
    radius, angle = cv2.cartToPolar(x - np.float32(person.hair_parting), y - np.float32(HEAD_TOP - 30))
    seed, curl = np.float32(person.hair_seed), person.hair_curl
    wave = np.float32(0.7 * curl) * cloud
    locks = noise(angle * 16 + wave + seed, radius * np.float32(0.012 + 0.03 * curl))
    hairs = noise(angle * 55 + 3 * wave, radius * np.float32(0.015))
    return 1 + np.float32(0.14) * locks + np.float32(0.10) * hairs


def _longer(person: Person) -> float:
    """0 for short hair, 1 from chin length on."""
    return min(1.0, max(0.0, person.hair_length * 4))


def _hair_silhouette(x: Floats, y: Floats, person: Person) -> Floats:
    """> 0 inside the hair's silhouette, in px: a dome over the cheekbones, straight or tapering below them."""
    longer = _longer(person)
    wide = person.face_width + 3 + person.hair_volume * (0.22 + 0.5 * longer)
    tall = HEAD_MIDDLE - HEAD_TOP + 4 + 0.8 * person.hair_volume
    rise = np.maximum(HEAD_MIDDLE - y, 0) * np.float32(1 / tall)
    across = np.abs(x) * np.float32(1 / wide)
    edge = across * across * np.sqrt(across) + rise * rise
    edge += np.float32(0.25 / 250**2) * np.maximum(y - np.float32(HEAD_MIDDLE), 0) ** 2
    return (1 - edge) * np.float32(wide / 2.25)


def _hair_end(person: Person, strands: Floats) -> Floats:
    """y where the hair at the sides ends, lock by lock; long hair more raggedly."""
    return 255 + 300 * max(0.0, person.hair_length) ** 0.7 + (15 + 75 * _longer(person)) * (strands - 1)


def _paint_back_hair(canvas: Canvas, person: Person, strands: Floats, ragged: Floats) -> None:
    whole = canvas.whole()
    end = _hair_end(person, strands) - whole.y
    inside = whole.inside(_hair_silhouette(whole.x, whole.y, person) + ragged, 3) * whole.inside(end, 10)
    shade = (0.74 - 0.0006 * np.maximum(whole.y - 100, 0)) * strands
    whole.paint(inside, hair_colour(person)[:, None, None] * shade)


def _paint_neck(canvas: Canvas, person: Person, chin_y: float) -> None:
    neck = canvas.patch(-120, chin_y - 80, 120, 560)
    half = 0.60 * person.face_width + 10 * person.masculinity + 0.004 * np.maximum(neck.y - chin_y, 0) ** 2
    across = neck.x / half
    rounded = np.maximum(0.92 - 0.40 * across * across, 0.25)
    shadow = 1 - 0.42 * np.exp(-np.maximum(neck.y - np.float32(chin_y - 8), 0) * np.float32(1 / 26))
    neck.paint(neck.inside(half - np.abs(neck.x), 3), skin_colour(person)[:, None, None] * (rounded * shadow))


def _paint_cloth(canvas: Canvas, photo: Photo) -> None:
    """Collar and shoulders."""
    cloth = canvas.patch(-400, 470, 400, 640)
    x = np.abs(cloth.x)
    top = 508 - 22 * bump(x - 92, 30) + 0.10 * np.maximum(x - 92, 0)
    folds = 0.85 + 0.10 * noise(cloth.x * 0.02 + 5, cloth.y * 0.02) + 0.03 * noise(cloth.x * 0.5, cloth.y * 0.5)
    cloth.paint(cloth.inside(cloth.y - top, 3), np.array(photo.cloth, np.float32)[:, None, None] * folds)


def _paint_ears(canvas: Canvas, person: Person, photo: Photo) -> None:
    """Ears and rings; long hair falls over them."""
    tone = skin_colour(person) * np.array([0.80, 0.82, 0.92], np.float32)
    tall, wide = 40 * person.ear_size, 19 * person.ear_size
    middle = person.face_width - 4 + person.ear_out - wide * 0.4
    for side in (-1, 1):
        left, right = sorted((side * (middle - wide - 8), side * (middle + wide + 8)))
        ear = canvas.patch(left, EAR_Y - tall, right, EAR_Y + tall)
        x, y = side * ear.x - np.float32(middle), ear.y - np.float32(EAR_Y)
        radius = np.hypot((x + 0.12 * y) * (1 / wide), y * (1 / tall))
        shade = 0.98 - 0.28 * bump(radius - 0.62, 0.18) - 0.25 * bump(radius, 0.3)
        if person.hair_length < 0.15:
            ear.paint(ear.inside((1 - radius) * wide, 2), tone[:, None, None] * shade)
        if photo.earrings:
            ring = canvas.patch(left, EAR_Y + tall - 4, right, EAR_Y + tall + 16)
            distance = np.hypot(side * ring.x - np.float32(middle), ring.y - np.float32(EAR_Y + tall + 5))
            ring.paint(ring.inside(6.5 - distance, 1.5), blend(photo.accessory, (0.75, 0.9, 1.0), 0.6))
            ring.paint(ring.inside(2.0 - distance, 1.5), (1, 1, 1))


def _paint_head(canvas: Canvas, person: Person, photo: Photo, relief: Relief, hairline: Floats, cloud: Floats) -> None:
    """The face: painted flat, lit by the relief, then laid over what is behind it."""
    pixels = np.empty_like(canvas.pixels)
    pixels[...] = skin_colour(person)[:, None, None]
    skin = Canvas(canvas.x, canvas.y, pixels)
    features.paint_complexion(skin, person, cloud)
    features.shade_folds(skin, person, photo)
    features.shade_nose(skin, person)
    features.paint_mouth(skin, person, photo)
    features.paint_beard(skin, person, photo)
    features.paint_brows(skin, person, photo)
    features.paint_eyes(skin, person, photo)
    fields = cv2.merge([*relief.light(), relief.outline])
    brightness, gloss, outline = cv2.split(relief.sample(fields, canvas.x, canvas.y, smooth=canvas.unit < 3))
    brightness *= np.maximum(1 - skin.shade, 0.1)
    brightness *= 1 - 0.30 * np.exp(np.minimum(hairline - canvas.y, 0) * np.float32(1 / 14))  # the hair's own shadow
    pixels[1] *= brightness
    warm = np.sqrt(np.sqrt(brightness))  # light that went through skin comes out red: blue falls faster
    pixels[0] *= brightness * warm
    pixels[2] *= brightness / np.sqrt(warm)
    pixels += (0.13 * (1 - photo.ambient) + 0.05) * gloss
    features.paint_catch_lights(skin, person, photo)
    whole = canvas.whole()
    whole.paint(whole.inside((1 - outline) * np.float32(person.face_width / 2.3), 1.5), pixels)


def _hairline(x: Floats, person: Person) -> Floats:
    """y down to which hair covers the forehead, (S, S): temples, peak, and a fringe swept from the parting."""
    reach = np.abs(HAIRLINE_X) / person.face_width
    longer = _longer(person)
    side_lock = (190 + 160 * longer) * np.maximum(reach - 0.74 + 0.06 * longer, 0)
    line = person.hairline + 10 - person.hair_temple * bump(reach - 0.58, 0.24) + side_lock
    line += person.hair_peak * bump(HAIRLINE_X, 18)
    swept = clip01((person.hair_parting - HAIRLINE_X) * np.float32(np.sign(person.hair_parting) / 130))
    line += 60 * max(0.0, person.hair_fringe) * swept * (2 - swept)
    table = np.minimum(line, 262 + 200 * longer).astype(np.float32)[None]
    column = (x - HAIRLINE_X[0]) * np.float32(0.5)
    found: Floats = cv2.remap(table, column, np.zeros_like(x), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found


def _paint_front_hair(canvas: Canvas, person: Person, strands: Floats, hairline: Floats, ragged: Floats) -> None:
    """Hair over the forehead and at the temples, with a band of gloss and loose strands at its edge."""
    whole = canvas.whole()
    depth = hairline + (22 + 26 * max(0.0, person.hair_fringe)) * (strands - 1) - whole.y
    end = _hair_end(person, strands) - whole.y
    inside = (
        whole.inside(depth, 7)
        * whole.inside(_hair_silhouette(whole.x, whole.y, person) + ragged, 3)
        * whole.inside(end, 10)
    )
    crown = whole.y - np.float32(person.hairline * 0.5 + 22) - np.float32(0.0018) * whole.x * whole.x
    shade = (0.82 + 0.40 * bump(crown, 34) - 0.20 * bump(depth, 16)) * strands
    whole.paint(inside, hair_colour(person)[:, None, None] * shade)


def _paint_hat(canvas: Canvas, person: Person, photo: Photo) -> None:
    """A woollen cap; its hem ends above the brows."""
    cap = canvas.patch(-240, -60, 240, 200)
    hem = 128 + 28 * photo.hat - 0.0009 * cap.x * cap.x - cap.y  # > 0 on the cap
    ribs = 0.9 + 0.10 * np.cos(cap.x * 0.28) + 0.04 * noise(cap.x * 0.3, cap.y * 0.3)
    wide = person.face_width + 0.3 * person.hair_volume + 8
    across = np.abs(cap.x) * np.float32(1 / wide)
    shade = ribs * np.where(hem < 34, np.float32(1.15), np.float32(0.95)) * (1.1 - 0.45 * across * across)
    rise = np.maximum(HEAD_MIDDLE - cap.y, 0) * np.float32(1 / (HEAD_MIDDLE - 22))
    shape = (1 - across * across * np.sqrt(across) - rise * rise * np.sqrt(rise)) * np.float32(wide / 2)
    cap.paint(0.35 * bump(hem + 5, 9) * (hem < 4) * (across < 0.9), (0, 0, 0))
    cap.paint(cap.inside(hem, 2) * cap.inside(shape, 2), np.array(photo.accessory, np.float32)[:, None, None] * shade)


def _paint_glasses(canvas: Canvas, person: Person, photo: Photo) -> None:
    """Two rims, a bridge, temples; faintly tinted lenses with a reflection."""
    wide, tall = 45.0, 26 + 12 * photo.glasses
    side = person.face_width
    frame = canvas.patch(-side, EYE_Y - 48, side, EYE_Y + 52)
    power = 2 + 3 * abs(photo.glasses - 0.5)
    x, y = np.abs(frame.x) - np.float32(person.eye_distance + 1), frame.y - np.float32(EYE_Y + 4)
    radius = ((np.abs(x) * (1 / wide)) ** power + (np.abs(y) * (1 / tall)) ** power) ** np.float32(1 / power)
    distance = (radius - 1) * np.float32(tall)
    thick = 2.0 + 2.0 * photo.glasses
    lens = frame.inside(-distance)
    frame.paint(lens * (0.08 + 0.14 * bump(x + y * 0.6 + 12, 9)), (1, 0.97, 0.95))
    rim = frame.inside(thick - np.abs(distance), 1)
    bridge = frame.inside(thick - np.abs(y + 8 - 0.01 * frame.x**2), 1) * frame.inside(
        person.eye_distance - 43 - np.abs(frame.x), 1
    )
    arms = frame.inside(thick - np.abs(y + 10), 1) * frame.inside(x - wide, 1) * frame.inside(side - np.abs(frame.x), 2)
    frame.paint(np.maximum(np.maximum(rim, bridge), arms), photo.accessory)


def _camera(planes: Floats, photo: Photo, size: int) -> NDArray[np.uint8]:
    """White balance, exposure, slight blur, area reduction and noise -> uint8 BGR (size, size, 3)."""
    gains = (1 - 0.07 * photo.temperature, 1.0, 1 + 0.06 * photo.temperature)
    picture = cv2.merge(
        [plane * np.float32(255 * photo.exposure * gain) for plane, gain in zip(planes, gains, strict=True)]
    )
    sigma = photo.blur_sigma * len(picture) / FRAME
    if sigma > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    if photo.noise_sigma:
        rng = np.random.Generator(np.random.PCG64(photo.noise_seed))
        picture += np.float32(photo.noise_sigma) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
