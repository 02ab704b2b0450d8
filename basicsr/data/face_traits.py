"""Who a generated person is (`Person`) and how one photo shows that person (`Photo`): numbers only, no pixels.

Lengths are pixels of the 512-px FFHQ frame; x counts from the middle of the face to the image's right, y downwards.
Traits without a unit are shares in [0, 1] unless their range says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

MAX_YAW = 20.0  # degrees
MAX_PITCH = 12.0
MAX_MOLES = 5


def _trait(low: float, high: float, lean: int = 0) -> float:
    """A trait drawn uniformly in [low, high]; `lean` +1 (-1): masculine faces tend to the high (low) end."""
    return field(metadata={"low": low, "high": high, "lean": lean})


@dataclass(frozen=True)
class Person:
    """Everything that stays the same from photo to photo."""

    masculinity: float = _trait(0, 1)
    age: float = _trait(0, 1)  # 0 about 18 years, 1 about 75
    # head
    face_width: float = _trait(122, 146)  # half, at the cheekbones
    chin_y: float = _trait(446, 474, 1)
    jaw_square: float = _trait(1.9, 3.0, 1)  # exponent of the lower outline
    jaw_taper: float = _trait(0.05, 0.34, -1)
    brow_ridge: float = _trait(2, 13, 1)
    cheekbone: float = _trait(-4, 13)
    cheek_fullness: float = _trait(-9, 9)
    chin_boss: float = _trait(-2, 13)
    chin_cleft: float = _trait(-1.5, 1, 1)  # below 0: none
    dimple: float = _trait(-1.2, 1)  # below 0: none
    ear_size: float = _trait(0.75, 1.2)
    ear_out: float = _trait(2, 16)
    # eyes
    eye_distance: float = _trait(56, 69)  # half
    eye_width: float = _trait(24, 32)  # half
    eye_height: float = _trait(9, 15, -1)
    eye_tilt: float = _trait(-0.10, 0.17)  # radians, outer corner up
    eye_peak: float = _trait(-0.45, 0.35)  # where the upper lid is highest, towards the nose < 0
    eye_depth: float = _trait(8, 24)
    iris_size: float = _trait(11.5, 14.5)
    iris_hue: float = _trait(0, 1)  # along IRIS_COLOURS
    lid_crease: float = _trait(4, 13)  # above the upper lid
    lid_dark: float = _trait(-0.1, 0.7, -1)
    lash: float = _trait(0.3, 1, -1)
    # brows
    brow_y: float = _trait(-44, -28)  # above the eye centre
    brow_thick: float = _trait(4, 13, 1)
    brow_length: float = _trait(48, 68)
    brow_gap: float = _trait(12, 32, -1)  # half
    brow_arch: float = _trait(0, 15, -1)
    brow_peak: float = _trait(0.35, 0.75)
    brow_tilt: float = _trait(-8, 10, -1)  # outer end up
    brow_dark: float = _trait(0.6, 1)
    # nose
    nose_y: float = _trait(302, 326)
    nose_height: float = _trait(26, 52)
    nose_width: float = _trait(20, 35)  # half, at the wings
    nose_bridge: float = _trait(9, 18)
    nose_tip: float = _trait(10, 19)
    nose_hump: float = _trait(-7, 9)
    nostril: float = _trait(0.6, 1.3)
    # mouth
    mouth_y: float = _trait(364, 380)
    mouth_width: float = _trait(44, 64)  # half
    lip_upper: float = _trait(5, 15, -1)
    lip_lower: float = _trait(8, 20, -1)
    cupid_bow: float = _trait(0, 0.6)
    lip_red: float = _trait(0.1, 1, -1)
    lip_dark: float = _trait(0.0, 0.45)
    mouth_curve: float = _trait(-5, 6)  # corners up > 0
    # skin
    melanin: float = _trait(0.08, 0.85)
    undertone: float = _trait(-1, 1)
    blush: float = _trait(0, 0.5, -1)
    freckles: float = _trait(-1.6, 1)  # below 0: none
    freckle_seed: float = _trait(0, 256)
    nasolabial: float = _trait(0.05, 0.7)
    eye_bags: float = _trait(0, 0.6)
    # hair and beard
    hair_tone: float = _trait(0, 1)  # along HAIR_COLOURS
    hair_grey: float = _trait(-2.5, 0.9)  # below 0: none
    hairline: float = _trait(98, 158)
    hair_peak: float = _trait(-8, 18)
    hair_temple: float = _trait(8, 50, 1)
    hair_volume: float = _trait(6, 44)
    hair_length: float = _trait(-0.6, 1, -1)  # below 0: short
    hair_parting: float = _trait(-75, 75)
    hair_fringe: float = _trait(-0.7, 1, -1)  # below 0: none
    hair_curl: float = _trait(0, 1)
    hair_seed: float = _trait(0, 256)
    moustache: float = _trait(-1.3, 1.0)  # below 0, and on feminine faces: none
    beard: float = _trait(-1.3, 1.0)
    goatee: float = _trait(-1.3, 1.0)
    moles: tuple[tuple[float, float, float], ...] = ()  # (x, y, radius)

    @property
    def has_beard(self) -> bool:
        return self.masculinity > 0.5


@dataclass(frozen=True)
class Photo:
    """Everything that changes from photo to photo: pose, expression, light, camera, surroundings, accessories."""

    yaw: float = 0.0  # degrees, > 0: the nose points to the image's right
    pitch: float = 0.0  # degrees, > 0: chin up
    smile: float = 0.0  # [-0.3, 1]
    mouth_open: float = 0.0
    brow_raise: float = 0.0  # [-0.5, 1]
    eye_closing: float = 0.0  # [-0.15, 1]
    gaze: tuple[float, float] = (0.0, 0.0)  # [-1, 1]
    light_azimuth: float = 0.0  # degrees, > 0: from the image's right
    light_elevation: float = 30.0  # degrees
    ambient: float = 0.5  # share of the light that has no direction
    temperature: float = 0.0  # [-1, 1], > 0 warm
    exposure: float = 1.0
    backdrop: tuple[float, ...] = (0.5,) * 6  # two BGR colours in [0, 1]
    backdrop_seed: float = 0.0
    cloth: tuple[float, float, float] = (0.4, 0.3, 0.3)  # BGR in [0, 1]
    glasses: float = 0.0  # 0 none, else the frame's shape in (0, 1]
    hat: float = 0.0  # 0 none, else the hat's hue in (0, 1]
    earrings: bool = False
    accessory: tuple[float, float, float] = (0.1, 0.1, 0.1)  # BGR in [0, 1]
    shift: tuple[float, float] = (0.0, 0.0)  # of the alignment, px
    turn: float = 0.0  # of the alignment, degrees
    zoom: float = 1.0  # of the alignment
    blur_sigma: float = 0.0  # px
    noise_sigma: float = 0.0  # of 255
    noise_seed: int = 0


def sample_person(rng: np.random.Generator) -> Person:
    """Draw a person; every trait is uniform, some lean on `masculinity`, beard and folds on it and on `age`."""
    masculinity = float(rng.uniform())
    values: dict[str, float] = {}
    traits = [entry for entry in fields(Person) if "low" in entry.metadata]
    for entry, share in zip(traits, rng.uniform(size=len(traits)).tolist(), strict=True):
        lean = entry.metadata["lean"]
        if lean:
            share = 0.65 * share + 0.35 * (masculinity if lean > 0 else 1 - masculinity)
        values[entry.name] = entry.metadata["low"] + share * (entry.metadata["high"] - entry.metadata["low"])
    values["masculinity"] = masculinity
    values["nasolabial"] = min(1.0, values["nasolabial"] * (0.5 + values["age"]))
    values["hair_grey"] += values["age"] * 1.2 - 0.3
    count = int(rng.integers(0, MAX_MOLES + 1))
    spots = rng.uniform((-95, 170, 3.0), (95, 430, 6.5), (count, 3))
    return Person(**values, moles=tuple((float(x), float(y), float(r)) for x, y, r in spots))


def sample_photo(rng: np.random.Generator) -> Photo:
    """Draw the circumstances of one photo; they do not depend on the person."""
    has_glasses, has_hat, has_earrings = rng.uniform(size=3) < (0.12, 0.07, 0.15)
    talks = rng.uniform() < 0.35
    return Photo(
        yaw=float(np.clip(rng.normal(0, 8), -MAX_YAW, MAX_YAW)),
        pitch=float(np.clip(rng.normal(0, 4), -MAX_PITCH, MAX_PITCH)),
        smile=float(rng.uniform(-0.2, 1)),
        mouth_open=float(rng.uniform(0.15, 0.9)) if talks else 0.0,
        brow_raise=float(rng.uniform(-0.4, 0.7)),
        eye_closing=float(np.clip(rng.exponential(0.16) - 0.12, -0.12, 0.85)),
        gaze=(float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.4, 0.4))),
        light_azimuth=float(rng.uniform(-55, 55)),
        light_elevation=float(rng.uniform(5, 50)),
        ambient=float(rng.uniform(0.4, 0.7)),
        temperature=float(rng.uniform(-1, 1)),
        exposure=float(rng.uniform(0.88, 1.1)),
        backdrop=(*_colour(rng, 0.12, 0.85), *_colour(rng, 0.12, 0.85)),
        backdrop_seed=float(rng.uniform(0, 256)),
        cloth=_colour(rng, 0.05, 0.8),
        glasses=float(rng.uniform(0.05, 1)) if has_glasses else 0.0,
        hat=float(rng.uniform(0.05, 1)) if has_hat else 0.0,
        earrings=bool(has_earrings),
        accessory=_colour(rng, 0.05, 0.45),
        shift=(float(rng.normal(0, 2)), float(rng.normal(0, 2))),
        turn=float(rng.normal(0, 0.8)),
        zoom=float(rng.normal(1, 0.012)),
        blur_sigma=float(rng.uniform(0, 1.6)),
        noise_sigma=float(rng.uniform(0, 2.5)),
        noise_seed=int(rng.integers(2**31)),
    )


def _colour(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """A muted BGR colour: a grey in [low, high], and up to 0.14 to either side in each channel."""
    grey = rng.uniform(low, high)
    blue, green, red = np.clip(grey + rng.uniform(-0.14, 0.14, 3), 0.02, 0.95)
    return float(blue), float(green), float(red)
