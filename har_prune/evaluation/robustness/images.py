"""The 15 + 4 corruptions of CIFAR-10-C, made from clean images.

Source: Hendrycks & Dietterich 2019, arXiv:1903.12261, with the strengths of its CIFAR-10-C. Lengths in pixels are
those of a side of 32 and grow with the image. Written anew in numpy, SciPy and Pillow; two differ from what the
authors used: frost has no photographs and is called `frost_like`, and spatter's edges come from a gradient and not
from Canny's detector.

Images are [H, W, 3] uint8; inside a function, floats in [0, 1].
"""

import io
import math
from typing import Any

import numpy as np
from numpy.random import RandomState
from PIL import Image
from scipy import ndimage

from har_prune.evaluation.robustness.registry import register_corruption

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_LUMA = np.array([0.299, 0.587, 0.114])


def _unit(image: np.ndarray) -> float:
    return min(image.shape[:2]) / 32


def _floats(image: Pixels) -> np.ndarray:
    return image.astype(np.float64) / 255


def _bytes(values: np.ndarray) -> Pixels:
    return (255 * np.clip(values, 0, 1)).astype(np.uint8)


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    spread = (sigma, sigma, 0) if values.ndim == 3 else sigma
    return ndimage.gaussian_filter(values, spread, mode="nearest")


@register_corruption("gaussian_noise", "image")
def gaussian_noise(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Adds normal noise: a sensor in low light."""
    return _bytes(_floats(image) + random.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1], size=image.shape))


@register_corruption("shot_noise", "image")
def shot_noise(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Draws each pixel from a Poisson distribution: few photons."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return _bytes(random.poisson(_floats(image) * photons) / photons)


@register_corruption("impulse_noise", "image")
def impulse_noise(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Sets some values to black or white."""
    hit = random.random_sample(image.shape) < (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    return np.where(hit, np.where(random.random_sample(image.shape) < 0.5, 255, 0), image).astype(np.uint8)


@register_corruption("speckle_noise", "image", group="extra_corruptions")
def speckle_noise(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Adds noise that grows with the brightness of a pixel."""
    values = _floats(image)
    scale = (0.06, 0.10, 0.12, 0.16, 0.20)[severity - 1]
    return _bytes(values + values * random.normal(scale=scale, size=image.shape))


@register_corruption("defocus_blur", "image")
def defocus_blur(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Spreads each pixel over a disk."""
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    radius *= _unit(image)
    reach = np.arange(-max(8, math.ceil(radius)), max(8, math.ceil(radius)) + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * alias**2))
    taps /= taps.sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, taps, axis=axis, mode="constant")
    return _bytes(ndimage.correlate(_floats(image), (disk / disk.sum())[..., None], mode="mirror"))


@register_corruption("glass_blur", "image")
def glass_blur(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Each pixel takes the place of a neighbour, between two blurs: frosted glass.

    The published code means to swap them; its assignment of views copies, and so its images are made.
    """
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    sigma, reach = sigma * _unit(image), max(1, round(reach * _unit(image)))
    blurred = _bytes(_smooth(_floats(image), sigma))
    height, width = image.shape[:2]
    order = list(range(height * width))
    for _ in range(rounds):
        moves = random.randint(-reach, reach, size=(height, width, 2)).tolist()
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                across, down = moves[row][column]
                here, there = row * width + column, (row + down) * width + column + across
                order[here] = order[there]
    shuffled = blurred.reshape(-1, 3)[order].reshape(image.shape)
    return _bytes(_smooth(_floats(shuffled), sigma))


@register_corruption("motion_blur", "image")
def motion_blur(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Smears the image along a random direction."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return _bytes(_smeared(_floats(image), radius, sigma, random.uniform(-45, 45)))


def _smeared(values: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    """The mean along a line that begins at each pixel, with weights that fall off: ImageMagick's motion blur."""
    unit = _unit(values)
    steps = np.arange(2 * round(radius * unit) + 1)
    weights = np.exp(-(steps**2) / (2 * (sigma * unit) ** 2))
    weights /= weights.sum()
    angle = math.radians(degrees)
    across = np.ceil(steps * math.cos(angle) - 0.5).astype(int)
    down = np.ceil(steps * math.sin(angle) - 0.5).astype(int)
    rows, columns = np.arange(values.shape[0]), np.arange(values.shape[1])
    smeared = np.zeros_like(values)
    for weight, right, below in zip(weights, across, down, strict=True):
        taken = values[np.clip(rows + below, 0, len(rows) - 1)][:, np.clip(columns + right, 0, len(columns) - 1)]
        smeared += weight * taken
    return smeared


@register_corruption("zoom_blur", "image")
def zoom_blur(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Averages the image with enlarged copies of it: moving towards something."""
    values = _floats(image)
    zooms = 1 + 0.01 * np.arange((6, 11, 16, 21, 26)[severity - 1])
    return _bytes((values + sum(_enlarged(values, zoom) for zoom in zooms)) / (len(zooms) + 1))


def _enlarged(values: np.ndarray, zoom: float) -> np.ndarray:
    """The middle of an array [H, W, ...], drawn up to its size."""
    sides = [math.ceil(side / zoom) for side in values.shape[:2]]
    starts = [(side - kept) // 2 for side, kept in zip(values.shape[:2], sides, strict=True)]
    middle = values[starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]]
    large = ndimage.zoom(middle, (zoom, zoom, *[1] * (values.ndim - 2)), order=1)
    cut = [(side - wanted) // 2 for side, wanted in zip(large.shape, values.shape[:2], strict=False)]
    return large[cut[0] : cut[0] + values.shape[0], cut[1] : cut[1] + values.shape[1]]


@register_corruption("gaussian_blur", "image", group="extra_corruptions")
def gaussian_blur(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Blurs evenly."""
    return _bytes(_smooth(_floats(image), (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1] * _unit(image)))


@register_corruption("snow", "image")
def snow(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Falling flakes in front of a scene that is whiter."""
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    values = _floats(image)
    flakes = _enlarged(random.normal(mean, spread, size=image.shape[:2]), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = _smeared(flakes, radius, sigma, random.uniform(-135, -45))[..., None]
    whiter = np.maximum(values, (values @ _LUMA)[..., None] * 1.5 + 0.5)
    turned = flakes[::-1, ::-1]
    return _bytes(kept * values + (1 - kept) * whiter + flakes + turned)


@register_corruption("frost_like", "image")
def frost_like(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Ice crystals on the lens; made of ridged noise, where the published frost lays photographs over the image."""
    kept, strength = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    ridges = 1 - np.abs(2 * _plasma(image.shape[:2], 2.0, random) - 1)
    crystals = (ridges**2)[..., None] * np.array([0.85, 0.93, 1.0])
    return _bytes(kept * _floats(image) + strength * crystals)


@register_corruption("fog", "image")
def fog(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Patchy haze."""
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    values = _floats(image)
    brightest = max(values.max(), 1 / 255)
    haze = strength * _plasma(image.shape[:2], decay, random)[..., None]
    return _bytes((values + haze) * brightest / (brightest + strength))


def _plasma(shape: tuple[int, ...], decay: float, random: RandomState) -> np.ndarray:
    """Cloudy noise in [0, 1] of a shape [H, W], by the diamond-square algorithm on a torus."""
    size = 2 ** math.ceil(math.log2(max(2, *shape[:2])))
    field, step, wobble = np.zeros((size, size)), size, 100.0

    def moved(total: np.ndarray) -> np.ndarray:
        return total / 4 + wobble * random.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        field[half::step, half::step] = moved(pairs + np.roll(pairs, -1, axis=1))
        middles, corners = field[half::step, half::step], field[::step, ::step]
        across = middles + np.roll(middles, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        field[::step, half::step] = moved(across)
        down = middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        field[half::step, ::step] = moved(down)
        step, wobble = half, wobble / decay
    field -= field.min()
    return (field / field.max())[: shape[0], : shape[1]]


@register_corruption("brightness", "image")
def brightness(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Adds to the value of HSV."""
    values = _floats(image)
    value = values.max(axis=2, keepdims=True)
    brighter = np.clip(value + (0.05, 0.10, 0.15, 0.20, 0.30)[severity - 1], 0, 1)
    return _bytes(np.where(value > 0, values * brighter / np.where(value > 0, value, 1), brighter))


@register_corruption("saturate", "image", group="extra_corruptions")
def saturate(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Changes the saturation of HSV; a grey pixel has the hue 0 there, red."""
    factor, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    values = _floats(image)
    value, least = values.max(axis=2, keepdims=True), values.min(axis=2, keepdims=True)
    spread = value - least
    saturation = spread / np.where(value > 0, value, 1)
    share = np.where(spread > 0, (value - values) / np.where(spread > 0, spread, 1), np.array([0.0, 1.0, 1.0]))
    return _bytes(value - value * np.clip(saturation * factor + more, 0, 1) * share)


@register_corruption("contrast", "image")
def contrast(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Pulls each channel to its mean."""
    values = _floats(image)
    mean = values.mean(axis=(0, 1))
    return _bytes((values - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] + mean)


@register_corruption("elastic_transform", "image")
def elastic_transform(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Shears the image at random and lets its pixels drift."""
    strength, sigma, shear = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity - 1]
    height, width = image.shape[:2]
    side = min(height, width)
    values, third = _floats(image), side // 3
    centre = np.array([height // 2, width // 2])
    before = centre + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    after = before + random.uniform(-shear * side, shear * side, size=before.shape)
    # The map that takes `after` back to `before`: where each pixel of the result comes from.
    back = np.linalg.solve(np.column_stack([after, np.ones(3)]), before)
    places = np.moveaxis(np.indices((height, width)), 0, -1).reshape(-1, 2)
    drift = np.zeros((height, width, 2))
    if strength:
        for axis in (0, 1):
            noise = random.uniform(-1, 1, size=(height, width))
            drift[..., axis] = strength * side * ndimage.gaussian_filter(noise, sigma * side, truncate=3)
    # Sheared first, then its pixels drift: the two maps one after the other.
    drifted = places + drift.reshape(-1, 2)
    origin = np.column_stack([drifted, np.ones(len(drifted))]) @ back
    channels = [ndimage.map_coordinates(values[..., c], origin.T, order=1, mode="mirror") for c in range(3)]
    return _bytes(np.stack(channels, axis=-1).reshape(image.shape))


@register_corruption("pixelate", "image")
def pixelate(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Shrinks the image and draws it up again."""
    height, width = image.shape[:2]
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


@register_corruption("jpeg_compression", "image")
def jpeg_compression(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Keeps the image as a JPEG of low quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
    return np.asarray(Image.open(file))


@register_corruption("spatter", "image", group="extra_corruptions")
def spatter(image: Pixels, severity: int, random: RandomState) -> Pixels:
    """Drops of water on the lens; at severities 4 and 5 mud."""
    mean, spread, sigma, least, strength, is_mud = (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1.0, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    )[severity - 1]
    unit, values = _unit(image), _floats(image)
    liquid = _smooth(random.normal(mean, spread, size=image.shape[:2]), sigma * unit)
    if is_mud:
        mask = _smooth((liquid > least).astype(np.float64), strength * unit)
        mask = np.where(mask < 0.8, 0, mask)[..., None]
        return _bytes(values * (1 - mask) + mask * np.array([63, 42, 20]) / 255)
    liquid = np.where(liquid < least, 0, liquid)
    edges = np.hypot(ndimage.sobel(liquid, axis=0), ndimage.sobel(liquid, axis=1)) > 0.4
    away = np.full(liquid.shape, 20.0)
    if edges.any():
        away = np.minimum(ndimage.distance_transform_edt(~edges), 20)
    relief = ndimage.uniform_filter(_equalised(ndimage.uniform_filter(away, 3, mode="mirror")), 3, mode="mirror")
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = np.clip(ndimage.correlate(relief, emboss, mode="mirror"), 0, 1)
    mask = liquid * ndimage.uniform_filter(relief, 3, mode="mirror")
    mask = strength * mask / mask.max() if mask.max() > 0 else mask
    return _bytes(values + mask[..., None] * np.array([175, 238, 238]) / 255)


def _equalised(values: np.ndarray) -> np.ndarray:
    """The share of values that are smaller, in [0, 1]: histogram equalisation."""
    levels, place, counts = np.unique(values.round(6), return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts[0]
    return (below / max(1, below[-1]))[place].reshape(values.shape) if len(levels) > 1 else np.zeros_like(values)
