"""Full ranking of every candidate item for every user of a part, by the protocol's masks and metrics."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmfast.config import EvaluateConfig
from mmfast.errors import MmfastError, suggest
from mmfast.metrics import RETRIEVED, check_metrics, per_user_metrics
from mmfast.ops.rank import rank
from mmfast.ranks import all_rows, share_of
from mmfast.verbs import VerbModule

if TYPE_CHECKING:
    import polars as pl

    from mmfast.data.dataset import Dataset
    from mmfast.run import Run

PARTS = ("valid", "test")
COMPARED = ("candidates", "ndcg", "round_digits")  # settings that decide which figures may stand side by side
sys.modules[__name__].__class__ = VerbModule


class NotFinite(MmfastError):
    """Vectors hold nan or inf and cannot be ranked; in training this is divergence."""


@dataclass(frozen=True)
class Evaluation:
    """Means over users and what they are made of."""

    metrics: dict[str, float]
    """"recall@20" -> mean over the evaluated users."""
    per_user: pl.DataFrame
    """Column `user` (internal id) and one float64 column per metric."""
    users: np.ndarray
    """Internal ids of the evaluated users, int64, ascending."""
    top_items: np.ndarray
    """Best items per evaluated user, int32 [users, max K or all candidates], -1 where masks leave fewer."""
    left_out: int = 0
    """Users of the part without a target among the candidates (cold candidates only)."""


@dataclass(frozen=True)
class Rows:
    """Item lists of some users as CSR: `items[ptr[r]:ptr[r + 1]]` belong to the r-th of them."""

    ptr: np.ndarray
    items: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Length of every list, int64."""
        return np.diff(self.ptr)

    def block(self, start: int, stop: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (ptr int64 [n + 1], items int32) of the lists start..stop-1 on `device`."""
        ptr = self.ptr[start : stop + 1]
        items = torch.tensor(self.items[ptr[0] : ptr[-1]], dtype=torch.int32, device=device)
        return torch.tensor(ptr - ptr[0], device=device), items


def evaluate(
    run_or_model: Run | torch.nn.Module,
    dataset: Dataset | None = None,
    part: str | None = None,
    config: EvaluateConfig | None = None,
    *,
    hide: Collection[str] = (),
) -> Evaluation:
    """Rank all candidate items for the users of `part` ("valid" or "test") and return their metrics.

    Only the user's training items are masked, also on test; values are means over users with a row in the part, in
    float64. `part` None is "test" for a run, whose model is chosen already, and "valid" for a model.
    Among several ranks the users are divided, every rank must call it, and has the result of one process, to the bit.
    `hide` shows the model the mean feature row in place of these modalities. Works on the model's device.
    A run brings its data set and its evaluate settings; a model needs the `dataset`, and has the default settings.
    Raises MmfastError for an unknown part or metric, non-finite vectors, or when no user has a cold target.

    >>> evaluate(run).metrics["recall@20"]  # doctest: +SKIP
    0.0899
    """
    model, dataset, config = _asked(run_or_model, dataset, config)
    part = part or ("valid" if model is run_or_model else "test")
    if part not in PARTS:
        raise MmfastError(f"part: got '{part}'.{suggest(part, PARTS)} Evaluate valid or test; train items are masked")
    check_metrics(config.metrics)
    users, targets, candidates, left_out = _targets(dataset, part, config)
    mask = user_rows(dataset, "train", users)
    top, hits = _rank_blocks(*embed(model, hide), users, mask, targets, candidates, config)
    columns = per_user_metrics(hits, targets.sizes, config.metrics, config.top_k, config.ndcg)
    metrics = {name: _mean(values, config.round_digits) for name, values in columns.items()}
    return Evaluation(metrics, _table(users, columns), users, top, left_out)


def evaluate_modalities(
    run: Run, part: str | None = None, config: EvaluateConfig | None = None
) -> dict[str, Evaluation]:
    """Return the evaluation of a run with everything shown, "all", and of each modality with the others hidden.

    Raises MmfastError when the model reads fewer than two modalities, and as `evaluate` does.

    >>> evaluate_modalities(run)["image"].metrics["recall@20"]  # doctest: +SKIP
    0.0471
    """
    modalities = run.model.modalities
    if len(modalities) < 2:
        raise MmfastError(f"evaluate: the model reads {', '.join(modalities) or 'no modality'}; there is none to hide")
    hides = {"all": ()} | {m: tuple(other for other in modalities if other != m) for m in modalities}
    return {name: evaluate(run, None, part, config, hide=hide) for name, hide in hides.items()}


def embed(model: torch.nn.Module, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the model's (users [U, D], items [I, D]) in evaluation mode without gradients; its mode is restored.

    Raises MmfastError when a vector is not finite: such scores cannot be ranked.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            users, items = model.embed(hide=hide)
    finally:
        model.train(training)
    for name, vectors in (("user", users), ("item", items)):
        if not torch.isfinite(vectors).all():
            raise NotFinite(f"embed: {name} vectors hold nan or inf; train again with a lower train.learning_rate")
    return users.detach(), items.detach()


def _asked(
    run_or_model: Run | torch.nn.Module, dataset: Dataset | None, config: EvaluateConfig | None
) -> tuple[torch.nn.Module, Dataset, EvaluateConfig]:
    """Return the model, data set and settings; a run is known by its attributes, for mmfast.run is a later room."""
    if isinstance(dataset, str):
        raise MmfastError(f"evaluate: dataset: got '{dataset}'; write part='{dataset}', or give a Dataset before it")
    model = run_or_model
    if not isinstance(model, torch.nn.Module) and hasattr(model, "model") and hasattr(model, "dataset"):
        config = config or run_or_model.config.evaluate
        model, dataset = run_or_model.model, dataset if dataset is not None else run_or_model.dataset
    if dataset is None:
        raise MmfastError(
            f"evaluate: got a {type(model).__name__} without data; pass dataset=..., or a Run (mmfast.load)"
        )
    return model, dataset, config or EvaluateConfig()


def evaluation_notes(dataset: Dataset, config: EvaluateConfig) -> list[str]:
    """Return sentences on what makes metrics incomparable with the standard ones, and on cut-offs above the items."""
    standard = EvaluateConfig()
    changed = {name: getattr(config, name) for name in COMPARED if getattr(config, name) != getattr(standard, name)}
    settings = " ".join(f"evaluate.{name}={value}" for name, value in changed.items())
    notes = [f"note: {settings}: not comparable with metrics of the standard full ranking"] if changed else []
    count = dataset.num_items if config.candidates == "all" else len(dataset.cold_items)
    beyond = [str(k) for k in config.top_k if k > count]
    if beyond:
        notes.append(f"note: only {count} items are ranked: metrics at {', '.join(beyond)} are of the whole ranking")
    return notes


def user_rows(dataset: Dataset, part: str, users: np.ndarray) -> Rows:
    """Return the items of each of `users` (internal ids, any order) in a part."""
    ptr, items = getattr(dataset, part).by_user(dataset.num_users)
    return gather_rows(ptr, items, users)


def gather_rows(ptr: np.ndarray, items: np.ndarray, rows: np.ndarray) -> Rows:
    """Return the lists `rows` of a CSR, in that order."""
    sizes = ptr[rows + 1] - ptr[rows]
    new_ptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(sizes, out=new_ptr[1:])
    # Position e of the result lies (e - new_ptr[row]) entries behind the start of its row.
    index = np.arange(new_ptr[-1]) + np.repeat(ptr[rows] - new_ptr[:-1], sizes)
    return Rows(new_ptr, items[index])


def _targets(dataset: Dataset, part: str, config: EvaluateConfig) -> tuple[np.ndarray, Rows, np.ndarray | None, int]:
    """Return users, their targets among the candidates, candidate ids (None: all) and how many users were left out."""
    ptr, items = getattr(dataset, part).by_user(dataset.num_users)
    users = np.flatnonzero(np.diff(ptr))
    if config.candidates == "all":
        return users, gather_rows(ptr, items, users), None, 0
    candidates = np.asarray(dataset.cold_items, np.int32)
    cold = np.isin(items, candidates)
    cold_ptr = np.concatenate([[0], np.cumsum(cold)])[ptr]
    with_rows = users
    users = np.flatnonzero(np.diff(cold_ptr))
    if not len(users):
        raise MmfastError(
            f"evaluate.candidates=cold: none of the {len(with_rows)} users of the {part} part has an item without a "
            f"training row ({len(candidates)} of {dataset.num_items} items are cold); use candidates=all or split=cold"
        )
    return users, gather_rows(cold_ptr, items[cold], users), candidates, len(with_rows) - len(users)


def _rank_blocks(
    user_vectors: torch.Tensor,
    item_vectors: torch.Tensor,
    users: np.ndarray,
    mask: Rows,
    targets: Rows,
    candidates: np.ndarray | None,
    config: EvaluateConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (top items int32 [users, k], hits bool [users, k]), k = max K or the number of candidates."""
    device = item_vectors.device
    ids = torch.as_tensor(users, device=device)
    chosen = None if candidates is None else torch.tensor(candidates, device=device)
    depth = max(config.top_k) if config.ndcg == "standard" else max(*config.top_k, RETRIEVED)
    k = min(depth, len(item_vectors) if chosen is None else len(chosen))
    tops = [torch.empty(0, k, dtype=torch.int32, device=device)]
    hits = [torch.empty(0, k, dtype=torch.bool, device=device)]
    # Whole blocks: a score may depend, in its last bit, on how many users are scored with it.
    for start in share_of(range(0, len(users), config.batch_users)):
        stop = min(start + config.batch_users, len(users))
        block = user_vectors[ids[start:stop]]
        mask_block, target_block = mask.block(start, stop, device), targets.block(start, stop, device)
        top, _, hit = rank(block, item_vectors, *mask_block, *target_block, k, chosen)
        tops.append(top)
        hits.append(hit)
    # One copy from the device at the end: the blocks above need not wait for each other.
    return all_rows(torch.cat(tops)).cpu().numpy(), all_rows(torch.cat(hits)).cpu().numpy()


def _mean(values: np.ndarray, digits: int | None) -> float:
    mean = float(values.mean())
    return mean if digits is None else round(mean, digits)


def _table(users: np.ndarray, columns: dict[str, Any]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame({"user": users, **columns})


if __name__ == "__main__":
    from mmfast.cli import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))
