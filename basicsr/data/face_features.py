"""What is painted on the skin of a generated face: eyes, brows, nose, mouth, folds, spots, beard.

Every function paints one feature, both sides at once, in head-space coordinates (face_geometry.py). Lengths are px of
the 512-px frame.

Shapes: h, w the patch of the picture that a feature touches.
"""

from __future__ import annotations

import math

import numpy as np

from basicsr.data.face_canvas import (
    Canvas,
    Colour,
    Floats,
    Patch,
    clip01,
    hair_colour,
    iris_colour,
    lip_colour,
    noise,
    skin_colour,
)
from basicsr.data.face_geometry import EYE_Y, bump, mouth_corner_y, mouth_half_width
from basicsr.data.face_traits import Person, Photo

LASH_COLOUR: Colour = (0.06, 0.06, 0.08)
PUPIL_COLOUR: Colour = (0.03, 0.03, 0.03)
MOUTH_COLOUR: Colour = (0.10, 0.07, 0.20)
TEETH_COLOUR: Colour = (0.82, 0.88, 0.90)
BLUSH_TINT: Colour = (0.72, 0.68, 0.98)  # factors on the skin's colour
FRECKLE_TINT: Colour = (0.42, 0.52, 0.68)
MOLE_TINT: Colour = (0.34, 0.37, 0.46)
LID_TINT: Colour = (0.62, 0.52, 0.58)


def paint_complexion(skin: Canvas, person: Person, cloud: Floats) -> None:
    """Uneven skin, blush, freckles and moles. cloud: (S, S) smooth noise, deviation 1."""
    tone, place = skin_colour(person), np.float32(person.freckle_seed)
    skin.pixels *= 1 + np.float32(0.02) * cloud
    if skin.unit < 2:  # coarser pixels cannot hold pores
        skin.pixels *= 1 + np.float32(0.015) * noise(skin.x * np.float32(0.45) + place, skin.y * np.float32(0.45))
    cheeks = skin.patch(-125, 265, 125, 360)
    blush = bump(np.abs(cheeks.x) - 80, 36) * bump(cheeks.y - 312, 32) * np.float32(person.blush)
    nose = bump(cheeks.x, 22) * bump(cheeks.y - person.nose_y, 22) * np.float32(0.3)
    cheeks.paint(blush + nose, tone * np.array(BLUSH_TINT, np.float32))
    if person.freckles > 0:
        face = skin.patch(-105, 240, 105, 350)
        grains = noise(face.x * np.float32(0.17) + 2 * place, face.y * np.float32(0.17) + place)
        region = bump(face.x, 85) * bump(face.y - 293, 36)
        cover = clip01((grains - 0.6) * 1.3) * region * np.float32(0.85 * person.freckles)
        face.paint(cover, tone * np.array(FRECKLE_TINT, np.float32))
    for x, y, radius in person.moles:
        spot = skin.patch(x - radius, y - radius, x + radius, y + radius)
        distance = radius - np.hypot(spot.x - np.float32(x), spot.y - np.float32(y))
        spot.paint(0.85 * spot.inside(distance, 2.5), tone * np.array(MOLE_TINT, np.float32))


def shade_folds(skin: Canvas, person: Person, photo: Photo) -> None:
    """Nasolabial folds, forehead lines, bags under the eyes, dimples, the cleft of the chin."""
    smile = max(photo.smile, 0.0)
    half = mouth_half_width(person, photo)
    top, bottom = person.nose_y - 4, person.mouth_y + 14
    fold = skin.patch(-half - 24, top, half + 24, bottom)
    along = clip01((fold.y - top) * np.float32(1 / (bottom - top)))
    belly = along * (1 - along)
    curve = person.nose_width + 5 + (half + 8 - person.nose_width) * along + 22 * belly
    depth = 0.34 * min(1.0, person.nasolabial * (0.7 + 0.6 * smile))
    fold.darken(bump(np.abs(fold.x) - curve, 5 + 3 * along) * np.sqrt(4 * belly), depth)
    lines = 0.40 * max(0.0, person.age - 0.4) + 0.2 * max(0.0, photo.brow_raise) * person.age
    if lines > 0.02:
        brow = skin.patch(-75, 142, 75, 192)
        bent = brow.y + np.float32(0.0012) * brow.x * brow.x
        waves = bump(bent - 150, 3) + bump(bent - 167, 3.2) + bump(bent - 184, 3)
        brow.darken(waves * bump(brow.x, 58), lines)
    bags = skin.patch(-100, EYE_Y + 8, 100, EYE_Y + 38)
    across = (np.abs(bags.x) - np.float32(person.eye_distance - 3)) * np.float32(1 / 30)
    weight = clip01(1 - across * across)
    below = bags.y - (EYE_Y + 19) - 8 * weight
    bags.darken(bump(below, 4) * weight, 0.30 * person.eye_bags * (0.5 + person.age))
    bags.darken(bump(below + 9, 10) * weight, 0.16 * person.eye_bags)
    if person.dimple > 0:
        cheek = skin.patch(-90, person.mouth_y - 30, 90, person.mouth_y + 6)
        pit = bump(np.abs(cheek.x) - 80, 5) * bump(cheek.y - (person.mouth_y - 12), 13)
        cheek.darken(pit, 0.40 * person.dimple * (0.5 + 0.5 * smile))
    if person.chin_cleft > 0:
        chin = skin.patch(-10, person.chin_y - 46, 10, person.chin_y - 6)
        chin.darken(bump(chin.x, 4.5) * bump(chin.y - (person.chin_y - 26), 15), 0.5 * person.chin_cleft)


def shade_nose(skin: Canvas, person: Person) -> None:
    """Nostrils, the wings' creases and the shadow under the tip; the rest of the nose is relief."""
    wide = person.nose_width
    nose = skin.patch(-wide * 1.2, person.nose_y - 18, wide * 1.2, person.nose_y + 28)
    x, y = np.abs(nose.x), nose.y - np.float32(person.nose_y)
    nose.darken(bump(y - 15, 7) * clip01(1 - x * x * (1 / wide**2)), 0.25)
    wing = np.hypot((x - 0.66 * wide) * (1 / (0.38 * wide)), (y - 2) * (1 / 14))
    nose.darken(bump(wing - 1, 0.28) * nose.inside(x - 0.72 * wide, 8) * nose.inside(14 - y, 8), 0.40)
    slanted = (y - 11 + 0.35 * (x - 0.5 * wide)) * (1 / (5.2 * person.nostril))
    nose.darken(nose.inside(5 - 5 * np.hypot((x - 0.48 * wide) * (1 / (0.27 * wide)), slanted), 4), 0.68)


def paint_brows(skin: Canvas, person: Person, photo: Photo) -> None:
    """Two bands of hairs: thickness, length, arch and tilt are the person's, the height is also expression."""
    middle, raised = EYE_Y + person.brow_y - 7 * photo.brow_raise, 4 * photo.brow_raise
    reach = person.brow_gap + person.brow_length
    brow = skin.patch(-reach, middle - 28, reach, middle + 22)
    along = (np.abs(brow.x) - np.float32(person.brow_gap)) * np.float32(1 / person.brow_length)
    share = clip01(along)
    peak = math.log(0.5) / math.log(person.brow_peak)
    line = middle - person.brow_arch * np.sin(np.pi * share**peak) - (person.brow_tilt - raised) * (share - 0.5)
    half = 0.85 * person.brow_thick * np.sqrt(1.1 - share) * clip01(0.45 + 2.2 * along)
    ends = clip01(along * 12 + 0.4) * clip01((1 - along) * 9)
    combed = brow.x * 0.42 + np.sign(brow.x) * brow.y * 0.3 + np.float32(person.hair_seed)
    hairs = noise(combed, brow.y * 0.10)
    cover = brow.inside(half - np.abs(brow.y - line), 5.0) * ends * clip01(0.92 + 0.2 * hairs)
    brow.paint(np.float32(person.brow_dark) * cover, hair_colour(person) * np.float32(0.5))


def paint_eyes(skin: Canvas, person: Person, photo: Photo) -> None:
    """Lids, white, iris and pupil of both eyes. Catch lights come after the shading (`paint_catch_lights`)."""
    outer = person.eye_distance + person.eye_width * 1.2
    eye = skin.patch(-outer, EYE_Y - 32, outer, EYE_Y + 20)
    side = np.sign(eye.x)
    x, y = np.abs(eye.x) - np.float32(person.eye_distance), eye.y - np.float32(EYE_Y)
    cosine, sine = math.cos(person.eye_tilt), math.sin(person.eye_tilt)
    x, y = x * cosine - y * sine, y * cosine + x * sine
    across = x * np.float32(1 / person.eye_width)
    flat = 1 - across * across
    arc = np.maximum(flat, 0)
    squint = max(photo.smile, 0.0)
    opening = person.eye_height * (1 - photo.eye_closing) * (1 - 0.12 * squint) + 1
    upper = (
        y - 1 + np.sqrt(arc * np.sqrt(arc)) * (1 + person.eye_peak * across) * np.float32(opening)
    )  # > 0 below the lid
    lower = arc * np.float32(0.58 * person.eye_height * (1 - 0.25 * squint)) + 1 - y  # > 0 above the lower lid
    _paint_lids(eye, person, across, upper, clip01(flat + 0.15))
    eye.darken(bump(lower + 1, 2.5) * arc + bump(across + 1.03, 0.16) * bump(y - 1, 4.5), 0.28)
    ball = eye.inside(upper, 1.5) * eye.inside(lower, 1.5) * (arc > 0)
    _paint_eyeball(eye, person, x - side * (6 * photo.gaze[0]), y + 2 - 4 * photo.gaze[1], ball, upper)
    ends = clip01(arc * 5 + 0.12 * (across > 0)) * (np.abs(across) < 1.12)
    lash = bump(upper + 0.8, 1.4 + 1.6 * person.lash) * ends
    eye.paint(np.float32(0.55 + 0.4 * person.lash) * lash, LASH_COLOUR)


def _paint_lids(eye: Patch, person: Person, across: Floats, upper: Floats, reach: Floats) -> None:
    """Crease and colour of the upper lid."""
    crease = upper + np.float32(person.lid_crease)
    eye.darken(bump(crease, 2.6) * reach, 0.40)
    between = eye.inside(-upper, 3) * eye.inside(crease + 3, 6) * reach
    eye.paint(between * (0.15 + 0.7 * max(0.0, person.lid_dark)), skin_colour(person) * np.array(LID_TINT, np.float32))


def _paint_eyeball(eye: Patch, person: Person, x: Floats, y: Floats, ball: Floats, below_lid: Floats) -> None:
    white = np.clip(0.56 + 0.042 * below_lid, 0.40, 0.82)
    radius = np.hypot(x, y) * np.float32(1 / person.iris_size)
    rays = noise(np.abs(np.arctan2(y, x)) * 9 + np.float32(person.hair_seed), radius * 3)  # mirrored: no seam at pi
    glow = np.maximum(0.55 + 0.75 * radius + 0.13 * rays + 0.02 * y, 0)
    glow *= (1 - 0.62 * clip01((radius - 0.76) * 5)) * np.clip(0.5 + 0.09 * below_lid, 0.5, 1)
    share = eye.inside((1 - radius) * person.iris_size, 1.8)
    colours = white * (1 - share) + iris_colour(person)[:, None, None] * (glow * share)
    colours *= 1 - 0.95 * eye.inside((0.40 - radius) * person.iris_size, 1.5)
    eye.paint(ball, colours)


def paint_catch_lights(skin: Canvas, person: Person, photo: Photo) -> None:
    """The lamp mirrored in both eyes."""
    if photo.eye_closing > 0.45:
        return
    y = EYE_Y - 6.5 + 4 * photo.gaze[1]
    for side in (-1, 1):
        x = side * person.eye_distance + 6 * photo.gaze[0] + 5 * math.sin(math.radians(photo.light_azimuth))
        spot = skin.patch(x - 3, y - 3, x + 3, y + 3)
        spot.paint(0.85 * spot.inside(2.6 - np.hypot(spot.x - np.float32(x), spot.y - np.float32(y)), 2.0), (1, 1, 1))


def paint_mouth(skin: Canvas, person: Person, photo: Photo) -> None:
    """Lips, and teeth between them when the mouth is open."""
    half, smile = mouth_half_width(person, photo), max(photo.smile, 0.0)
    gap = 26 * photo.mouth_open + 5 * max(0.0, smile - 0.6)
    thin = 1 - 0.22 * smile
    tall = person.lip_lower * thin + 0.7 * gap
    mouth = skin.patch(-half - 5, person.mouth_y - 18 - 0.3 * gap, half + 5, person.mouth_y + tall + 16)
    across = mouth.x * np.float32(1 / half)
    square = across * across
    arc = np.maximum(1 - square, 0)
    rise = person.mouth_y - mouth_corner_y(person, photo)
    line = person.mouth_y - np.float32(rise) * square
    below, above = mouth.y - line - gap * 0.7 * arc, line - gap * 0.3 * arc - mouth.y  # > 0 on the lower, the upper lip
    curve = np.sqrt(arc * np.sqrt(arc))
    bow = (1 - np.float32(person.cupid_bow) * bump(across, 0.17)) * (1 + 0.12 * np.abs(across))
    lip_top = curve * np.float32(person.lip_upper * thin) * bow - above
    lip_bottom = curve * np.float32(person.lip_lower * thin) - below
    mouth.darken(bump(lip_bottom + 7, 6) * arc, 0.18)
    lips = mouth.inside(lip_top, 2) * mouth.inside(lip_bottom, 2.5) * mouth.inside((1 - np.abs(across)) * half, 2)
    shine = bump(below * np.float32(1 / person.lip_lower) - 0.45, 0.35) * bump(across, 0.55)
    wrinkles = noise(mouth.x * 0.25 + np.float32(person.hair_seed), mouth.y * 0.04)
    tone = np.where(above > 0, np.float32(0.80), 0.92 + 0.20 * shine) + 0.025 * wrinkles
    mouth.paint(0.92 * lips, lip_colour(person)[:, None, None] * tone)
    if gap > 1:
        _paint_mouth_inside(mouth, across, above, below, min(gap * 0.6, 13.0) * arc)
    seam = bump(mouth.y - line, 2.2) * clip01(arc * 4 + 0.2) * (np.abs(across) < 1.04)
    mouth.darken(seam, 0.60 if gap <= 1 else 0.15)
    mouth.darken(bump(np.abs(across) - 1, 0.06) * bump(mouth.y - (person.mouth_y - rise), 4), 0.42)


def _paint_mouth_inside(mouth: Patch, across: Floats, above: Floats, below: Floats, teeth_end: Floats) -> None:
    hole = mouth.inside(-above, 1.5) * mouth.inside(-below, 1.5) * (np.abs(across) < 1)
    mouth.paint(hole, MOUTH_COLOUR)
    teeth = hole * mouth.inside(teeth_end + above, 2.5) * clip01((0.9 - np.abs(across)) * 8)
    light = (1 - 0.35 * across * across) * (0.93 + 0.05 * np.cos(mouth.x * 0.62))
    mouth.paint(teeth, np.array(TEETH_COLOUR, np.float32)[:, None, None] * light)


def paint_beard(skin: Canvas, person: Person, photo: Photo) -> None:
    """Moustache, goatee and whiskers, as dense as the traits say."""
    if not person.has_beard or max(person.moustache, person.goatee, person.beard) <= 0:
        return
    jaw = skin.patch(-person.face_width, person.mouth_y - 120, person.face_width, person.chin_y + 20)
    x, y = np.abs(jaw.x), jaw.y
    half, opened = mouth_half_width(person, photo), photo.mouth_open
    hairs = noise(jaw.x * 0.42 + np.float32(person.hair_seed), jaw.y * 0.14)
    if skin.unit < 2:  # coarser pixels cannot hold single hairs
        hairs = 0.6 * hairs + noise(jaw.x * 0.9 + 0.2 * jaw.y, jaw.y * 0.22)
    curls = noise(jaw.x * 0.12 + np.float32(person.hair_seed), jaw.y * 0.12)
    lip_top = person.mouth_y - person.lip_upper - 3 - 4 * photo.smile * (x * (1 / half)) ** 2
    moustache = jaw.inside(y - person.nose_y - 17 - 0.12 * x, 7) * jaw.inside(half + 10 - x, 8)
    moustache *= jaw.inside(lip_top + 36 * np.clip(x * (1 / half) - 0.7, 0, 1) - y, 5)
    mouth = np.hypot(x * (1 / (half + 9)), (y - person.mouth_y - 6 - 8 * opened) * (1 / (30 + 14 * opened)))
    goatee = jaw.inside(half * 0.72 + 6 - x, 12) * jaw.inside(
        y - person.mouth_y - person.lip_lower - 10 - 22 * opened, 8
    )
    slope = np.maximum(x - 40, 0)
    cheek_line = person.mouth_y - 8 - 0.010 * slope * slope + 5 * curls
    whiskers = jaw.inside(y - cheek_line, 28) * clip01((mouth - 1) * 4)
    density = np.maximum(moustache * max(0.0, person.moustache), goatee * max(0.0, person.goatee))
    density = np.maximum(density, whiskers * max(0.0, person.beard))
    cover = clip01(np.sqrt(density) * (0.78 + 0.30 * hairs + 0.10 * curls))
    jaw.paint(cover, hair_colour(person)[:, None, None] * (0.80 + 0.14 * hairs))
