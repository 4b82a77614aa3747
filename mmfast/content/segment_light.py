"""Objects of a photo without a neural network: a background model, then similar neighbouring regions are merged.

The background is what continues the picture's border: smooth colour, and the same colour in a shadow. What is left is
cut into superpixels, which are merged by colour histogram, size and shape as in Uijlings et al., "Selective Search for
Object Recognition", IJCV 2013; the last merges of that tree are the objects. SAM sees far more in a real photo.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from mmfast.config import Config
from mmfast.content.weights import need_package

# Slopes are colour levels per pixel: film grain and walls stay below FLAT, soft shadows below SOFT, outlines above.
FLAT, SOFT = 15.0, 34.0
SAME, SHADED = 14.0, 16.0  # colour levels from the background's colour, and from that colour in a shadow
DARKEST = 0.5  # a shadow takes away at most this share of the light
BORDER_SHARE = 0.10  # a flat region is background when it lies along this share of a side, as objects rarely do
LEAST_POCKET = 12  # pixels of a piece of background that objects close in
BINS = 10  # of each Lab channel in the histograms
LAB_LOW, LAB_RANGE = (0.0, -80.0, -80.0), (100.0, 160.0, 160.0)  # what the bins cover
SMALL_FIRST, FILL_GAPS = 0.6, 0.4  # weights of size and of shape beside 1 for colour
LEAST_SIDE = 16  # pixels; a smaller picture is one object


class LightSegmenter(Config):
    """Settings of the classical segmenter; called with a picture, it returns `light_masks` of it."""

    kind: Literal["light"] = "light"
    """Which segmenter these settings are for."""
    side: int = Field(128, ge=32)
    """Larger photos are reduced to this many pixels of their longer side; masks have that size."""
    superpixels: PositiveInt = 80
    """Regions that the foreground is cut into before they are merged."""
    merges: int = Field(6, ge=0)
    """How many of the last merges give their two regions as masks, besides the connected regions."""
    least_share: float = Field(0.015, ge=0, lt=1)
    """Smaller masks, as a share of the picture, are left out."""
    overlap: float = Field(0.8, gt=0, le=1)
    """A mask of a larger intersection over union with an earlier one is left out."""

    def load(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return the function from a picture uint8 [H, W, 3] to its masks. Raises MmfastError without scikit-image."""
        need_package("skimage", "masks of the light segmenter")
        return partial(light_masks, settings=self)

    def identity(self) -> str:
        """Name and version of the method, and of the packages that it stands on: part of every key in the store.

        Raises MmfastError without scikit-image.
        """
        need_package("skimage", "masks of the light segmenter")
        return f"light-1:scikit-image-{version('scikit-image')}:scipy-{version('scipy')}"


def light_masks(image: np.ndarray, settings: LightSegmenter | None = None) -> list[np.ndarray]:
    """Return the objects' masks bool [H, W] of an RGB picture uint8 [H, W, 3], the largest first; perhaps none.

    Masks may lie inside each other: a table with a lamp on it, the table, the lamp. The same picture gives the same
    masks. The picture is taken as large as it is: `mmfast.content.segment` reduces it to `settings.side`.

    >>> [mask.sum() for mask in light_masks(np.asarray(Image.open("lamp.png")))]     # [2911, 1804, 1107]
    """
    settings = settings or LightSegmenter()
    if min(image.shape[:2]) < LEAST_SIDE:
        return [np.ones(image.shape[:2], bool)]
    return _distinct(_regions(image.astype(np.float32), settings), settings)


def _regions(pixels: np.ndarray, settings: LightSegmenter) -> list[np.ndarray]:
    """Return connected regions of the foreground, then the two sides of each late merge, the last merge first."""
    from skimage.measure import label

    front = foreground(pixels)
    labels = label(front, connectivity=1)
    whole = [labels == n for n in range(1, labels.max() + 1)]
    pieces, merges = _merge_tree(pixels, front, settings.superpixels)
    late = [side for merge in merges[::-1][: settings.merges] for side in merge]
    return whole + [np.isin(pieces, members) for members in late]


def _distinct(masks: list[np.ndarray], settings: LightSegmenter) -> list[np.ndarray]:
    kept: list[np.ndarray] = []
    for mask in masks:
        if mask.mean() >= settings.least_share and all(_iou(mask, other) < settings.overlap for other in kept):
            kept.append(mask)
    return sorted(kept, key=lambda mask: -int(mask.sum()))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def foreground(pixels: np.ndarray) -> np.ndarray:
    """Return bool [H, W]: where an RGB picture float32 [H, W, 3] in 0..255 does not show its background."""
    from scipy import ndimage
    from skimage.measure import label
    from skimage.morphology import disk, opening
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(pixels, (0.7, 0.7, 0))
    slopes = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)).max(axis=2) / 8
    flat = slopes < FLAT
    behind = _border_regions(label(flat, connectivity=1))
    if not behind.any():
        return np.ones(flat.shape, bool)
    for _ in range(2):  # the second time, the model also knows the shadows' surroundings
        difference, shaded = _against_background(smooth, behind)
        touching = label(behind | (shaded & (slopes < SOFT)), connectivity=1)
        behind = np.isin(touching, np.unique(touching[behind]))
        rest = label(flat & ~behind, connectivity=1)
        sizes = np.bincount(rest.ravel())
        typical = np.array(ndimage.median(difference, rest, np.arange(len(sizes))))
        pockets = (typical < SAME) & (sizes >= LEAST_POCKET)
        behind |= pockets[rest] & (rest > 0)
    inside = ndimage.distance_transform_edt(~behind) > 2
    # Pixels on an outline go to the side that the steepest slope leaves them on.
    sides = watershed(slopes, np.where(behind, 1, np.where(inside, 2, 0)))
    return opening(sides == 2, disk(1))


def _border_regions(labels: np.ndarray) -> np.ndarray:
    """Return where flat regions lie that run along the border, long for their size."""
    border = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    sizes = np.bincount(labels.ravel())
    along = np.bincount(border, minlength=len(sizes))
    known = (along >= BORDER_SHARE * min(labels.shape)) & (along > 0.35 * np.sqrt(sizes))
    known[0] = False  # the steep pixels
    return known[labels]


def _against_background(smooth: np.ndarray, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest channel difference from the background's colour, and where a shadow on it explains a pixel.

    The background's colour at a pixel is the mean over background pixels of its row and the rows next to it, near
    columns first: walls, floors and tables change from top to bottom, light also from side to side.
    """
    from scipy import ndimage

    weights = behind.astype(np.float32)
    total = ndimage.gaussian_filter(weights, (1, 24))
    colour = ndimage.gaussian_filter(smooth * weights[..., None], (1, 24, 0)) / np.maximum(total, 1e-6)[..., None]
    unknown = total < 0.02
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    colour = colour[tuple(nearest)]
    # A shadow moves a colour towards black along a line: project on it, and look at what is left.
    difference = smooth - colour
    loss = -(difference * colour).sum(axis=2) / np.maximum((colour**2).sum(axis=2), 1e-6)
    left = difference + np.clip(loss, -0.05, DARKEST)[..., None] * colour
    return np.abs(difference).max(axis=2), np.abs(left).max(axis=2) < SHADED


class _Region:
    """One node of the merge tree: its superpixels, colours, size, bounding box and neighbours."""

    def __init__(self, members: list[int], colours: np.ndarray, size: int, box: np.ndarray, near: set[int]) -> None:
        self.members, self.colours, self.size, self.box, self.near = members, colours, size, box, near

    def likeness(self, other: _Region, total: int) -> float:
        """Selective Search's similarity: common colours, smallness, and how well both fill their common box."""
        both = self.size + other.size
        low, high = np.minimum(self.box[:2], other.box[:2]), np.maximum(self.box[2:], other.box[2:])
        gaps = (np.prod(high - low) - both) / total
        colours = np.minimum(self.colours, other.colours).sum()
        return float(colours + SMALL_FIRST * (1 - both / total) + FILL_GAPS * (1 - gaps))

    def joined(self, other: _Region, own: tuple[int, int]) -> _Region:
        """Return the union; `own` are the numbers of the two, which are no neighbours of it."""
        size = self.size + other.size
        colours = (self.colours * self.size + other.colours * other.size) / size
        box = np.concatenate([np.minimum(self.box[:2], other.box[:2]), np.maximum(self.box[2:], other.box[2:])])
        return _Region(self.members + other.members, colours, size, box, (self.near | other.near) - set(own))


def _merge_tree(
    pixels: np.ndarray, front: np.ndarray, superpixels: int
) -> tuple[np.ndarray, list[tuple[list[int], list[int]]]]:
    """Return the superpixels [H, W] (0 is background) and, merge by merge, the members of the two merged regions."""
    pieces, regions = _superpixels(pixels, front, superpixels)
    total = int(front.sum())
    pairs = sorted({(a, b) for a, region in regions.items() for b in region.near if a < b})
    heap = [(-regions[a].likeness(regions[b], total), a, b) for a, b in pairs]
    heapq.heapify(heap)
    merges, number = [], max(regions, default=0) + 1
    while heap:
        _, a, b = heapq.heappop(heap)
        if a not in regions or b not in regions:
            continue
        first, second = regions.pop(a), regions.pop(b)
        merges.append((first.members, second.members))
        regions[number] = union = first.joined(second, (a, b))
        for other in sorted(union.near):
            regions[other].near = (regions[other].near - {a, b}) | {number}
            heapq.heappush(heap, (-union.likeness(regions[other], total), other, number))
        number += 1
    return pieces, merges


def _superpixels(pixels: np.ndarray, front: np.ndarray, count: int) -> tuple[np.ndarray, dict[int, _Region]]:
    """Return SLIC superpixels of the foreground [H, W], numbered from 1, and each as a region."""
    from scipy import ndimage
    from skimage.color import rgb2lab
    from skimage.segmentation import slic

    if not front.any():
        return np.zeros(front.shape, np.int64), {}
    lab = ndimage.gaussian_filter(rgb2lab(pixels / 255), (1, 1, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a superpixel without a pixel is none: nothing to tell
        pieces = slic(lab, count, 6, mask=front, start_label=1, convert2lab=False, channel_axis=2)
    sizes = np.bincount(pieces.ravel())
    levels = np.clip((lab - LAB_LOW) / LAB_RANGE * BINS, 0, BINS - 1).astype(np.int64)
    codes = (levels * (BINS * BINS, BINS, 1)).sum(axis=2)
    colours = np.zeros((len(sizes), BINS**3), np.float32)
    np.add.at(colours, (pieces[front], codes[front]), 1)
    # A colour near the edge of a bin counts for the next one too.
    colours = ndimage.gaussian_filter(colours.reshape(-1, BINS, BINS, BINS), (0, 0.7, 0.7, 0.7)).reshape(len(sizes), -1)
    colours /= np.maximum(colours.sum(axis=1, keepdims=True), 1e-9)
    near: dict[int, set[int]] = {n: set() for n in np.unique(pieces[front]).tolist()}
    for one, other in ((pieces[:, :-1], pieces[:, 1:]), (pieces[:-1], pieces[1:])):
        touch = (one != other) & (one > 0) & (other > 0)
        for a, b in np.unique(np.stack([one[touch], other[touch]], axis=1), axis=0).tolist():
            near[a].add(b)
            near[b].add(a)
    boxes = ndimage.find_objects(pieces)
    regions = {}
    for n, neighbours in near.items():
        rows, columns = boxes[n - 1]
        box = np.array([rows.start, columns.start, rows.stop, columns.stop])
        regions[n] = _Region([n], colours[n], int(sizes[n]), box, neighbours)
    return pieces, regions
