"""Objects in photos: the largest masks of every item by a segmenter, kept in the store photo by photo (Eq. 5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from mmfast.content.images import DECODER, MOST_PIXELS, Pictures, Unreadable, open_picture
from mmfast.content.masks import Entry, Masks, join_masks
from mmfast.content.progress import Meter
from mmfast.content.rle import encode_runs
from mmfast.content.segment_light import LightSegmenter
from mmfast.content.segment_sam import SamSegmenter
from mmfast.content.store import Store, content_key
from mmfast.content.worker_pool import worker_pool
from mmfast.errors import MmfastError

KIND = "segment"
STORED = 8  # masks kept per photo, so that trying other z computes nothing anew
WRITERS = 2  # threads that put entries on the disk meanwhile
READERS = 2  # threads that decode while the model computes
Segmenter = LightSegmenter | SamSegmenter
Job = tuple[str, Path]
_worker: list[Callable[[np.ndarray], list[np.ndarray]]] = []


def segment(
    pictures: Pictures,
    segmenter: Segmenter | None = None,
    *,
    masks: int = 5,
    processes: int = 1,
    store: Store | None = None,
    most_pixels: int = MOST_PIXELS,
    show: bool = False,
) -> Masks:
    """Return the `masks` (z) largest masks of every item's photo, computing those that the store does not have.

    Fewer are returned where fewer were found, and the whole photo where none was. A photo that cannot be read is
    listed in `missing` with the reason. `processes` compute the light segmenter side by side; SAM runs in this one.
    Raises MmfastError for z outside 1..8, absent packages or weights, and a photo that changes meanwhile.

    >>> found = segment(find_pictures(items, [folder]), LightSegmenter())          # doctest: +SKIP
    """
    _check(masks, processes)
    segmenter, store = segmenter or LightSegmenter(), store or Store()
    files, model = pictures.of_hash(), segmenter.identity()
    recipe = {"model": model, "settings": _settings(segmenter, most_pixels)}
    keys = {digest: content_key(kind=KIND, **recipe, inputs=[digest]) for digest in files}
    found: dict[str, Entry | str] = {}
    with Meter("segmenting", len(files), "photos", show) as meter:
        for digest, key in keys.items():
            known = store.get(KIND, key) or store.failure(KIND, key)
            if known is not None:
                found[digest] = _largest(known, masks)
                meter.add(cached=True)
        absent = [(digest, path) for digest, path in files.items() if digest not in found]
        computed = _compute(segmenter, absent, processes, most_pixels)
        # Waiting for the disk takes a tenth of the time of a light mask: the next photo is computed meanwhile.
        with ThreadPoolExecutor(WRITERS) as pool:
            for ((digest, _), result), _ in _ahead(pool, _keep, computed, (store, keys, recipe), 2 * WRITERS):
                found[digest] = _largest(result, masks)
                meter.add()
    return _by_item(pictures, found)


def _check(masks: int, processes: int) -> None:
    if not 1 <= masks <= STORED:
        raise MmfastError(f"segment: got masks={masks}; want 1..{STORED}, the paper's case study shows at least 4")
    if processes < 1:
        raise MmfastError(f"segment: got processes={processes}; want at least 1")


def _keep(computed: tuple[Job, Entry | str], store: Store, keys: dict[str, str], recipe: dict[str, Any]) -> None:
    (digest, _), result = computed
    if isinstance(result, str):
        store.fail(KIND, keys[digest], result, {"recipe": recipe})
    else:
        note = {"model": recipe["model"], "masks": len(result["offsets"]) - 1, "recipe": recipe}
        store.put(KIND, keys[digest], result, note)


def _settings(segmenter: Segmenter, most_pixels: int) -> dict[str, Any]:
    own = segmenter.model_dump(mode="json", exclude={"checkpoint", "device"})
    read = {"most_pixels": most_pixels, "pillow": PIL.__version__, "decoder": DECODER}
    return {**own, "stored": STORED, **read}


def _by_item(pictures: Pictures, found: dict[str, Entry | str]) -> Masks:
    missing = dict(pictures.problems)
    entries: list[Entry | None] = []
    for item, digest in enumerate(pictures.hashes):
        own = found[digest] if digest is not None else None
        if isinstance(own, str):
            missing[item], own = own, None
        entries.append(own)
    return join_masks(entries, missing)


def _largest(entry: Entry | str, count: int) -> Entry | str:
    if isinstance(entry, str):
        return entry
    offsets = entry["offsets"][: count + 1]
    return {"size": entry["size"], "offsets": offsets, "runs": entry["runs"][: offsets[-1]].copy()}


def _compute(
    segmenter: Segmenter, jobs: list[Job], processes: int, most_pixels: int
) -> Iterator[tuple[Job, Entry | str]]:
    """Yield each photo's masks, or the reason why it cannot be read, in the order of the jobs."""
    if not jobs:
        return
    if processes > 1 and isinstance(segmenter, LightSegmenter):
        arguments = (segmenter.side, most_pixels)
        with worker_pool(processes, _start_worker, segmenter) as pool:
            yield from _ahead(pool, _read_and_segment, jobs, arguments, 4 * processes)
        return
    masks_of = segmenter.load()
    with ThreadPoolExecutor(READERS) as pool:
        for job, photo in _ahead(pool, _read, jobs, (segmenter.side, most_pixels), 2 * READERS):
            yield job, photo if isinstance(photo, str) else _entry(masks_of(photo), photo)


def _ahead(
    pool: Executor, function: Callable[..., Any], jobs: Iterable[Any], arguments: tuple[Any, ...], depth: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (job, function(job, *arguments)) in order, with at most `depth` of them under way or waiting."""
    waiting: deque[tuple[Any, Any]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(function, job, *arguments)))
            if len(waiting) >= depth:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _start_worker(segmenter: LightSegmenter) -> None:
    _worker[:] = [segmenter.load()]


def _read_and_segment(job: Job, side: int, most_pixels: int) -> Entry | str:
    photo = _read(job, side, most_pixels)
    return photo if isinstance(photo, str) else _entry(_worker[0](photo), photo)


def _read(job: Job, side: int, most_pixels: int) -> np.ndarray | str:
    """Return a photo uint8 [H, W, 3], its longer side at most `side`, or the reason why it cannot be read."""
    digest, path = job
    try:
        photo = open_picture(path, digest, most_pixels)
    except Unreadable as problem:
        return str(problem)
    scale = side / max(photo.size)
    if scale < 1:
        size = [max(1, round(length * scale)) for length in photo.size]
        photo = photo.resize(size, Image.Resampling.BOX)
    return np.array(photo)


def _entry(masks: list[np.ndarray], photo: np.ndarray) -> Entry:
    """Return the entry of the largest masks that have a pixel."""
    runs = [encode_runs(mask) for mask in masks[:STORED] if mask.any()]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in runs])]).astype(np.int64)
    return {
        "size": np.array(photo.shape[:2], np.int32),
        "offsets": offsets,
        "runs": np.concatenate([np.zeros(0, np.uint32), *runs]),
    }
