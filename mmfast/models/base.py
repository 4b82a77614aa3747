"""Recommender: the contract of a backbone, and the three doors through which frameworks reach it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from mmfast.config import ModelConfig
from mmfast.embeddings import whole_and_parts
from mmfast.errors import MmfastError, suggest
from mmfast.graph import Graph, user_item_pairs
from mmfast.models.features import FeatureSource, FrozenFeatures, HiddenFeatures, TrainableFeatures
from mmfast.models.layers import Rows, compacted, preference
from mmfast.models.named import PREFIX, NamedModules
from mmfast.ops import triple_margins

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch


T = TypeVar("T")


class Recommender(nn.Module):
    """A backbone: user and item vectors whose inner product ranks, and a loss on a batch.

    The doors: features in (`item_features`, `set_item_features`), graph in (`set_interaction_graph`), tables out
    (`embed`, `id_embeddings`). A subclass sets `uses_negatives` and `content_in_scores` to False where negatives are
    not drawn and where features act in the loss alone, so that hiding them cannot change a score; `late_fusion` to True
    where a score is a sum over IDs and modalities; `ranking_term` to the loss term that ranks, where it is not `bpr`;
    `over_ranks` to "batch" where the loss is made of mmfast.ops, `batch_mean` and `batch_rows` among them, so that
    ranks may divide the batch, and to "rows" where besides square graphs are used by `propagate`, `propagate_rows` and
    `edges` alone, so that ranks may divide their rows.
    """

    Config = ModelConfig
    uses_negatives = True
    content_in_scores = True
    late_fusion = False
    over_ranks = ""
    ranking_term = "bpr"
    step_tables = 16.0
    """Tables [U + I, D] that a training step holds beside parameters and gradients, for IDs and for every modality:
    the allowance of `mmfast.memory`, above the peaks measured."""

    def __init__(self, config: ModelConfig, dataset: Dataset, generator: torch.Generator) -> None:
        """Build parameters from `generator` and graphs from the training part of `dataset`."""
        super().__init__()
        self.config = config
        self.num_users = dataset.num_users
        self.num_items = dataset.num_items
        self.sources = NamedModules()
        self.graph: Graph | None = None
        self.masked: frozenset[str] = frozenset()
        self._states: dict[str, tuple[bool, ...]] | None = None
        self._shared: dict[tuple[str, ...], Any] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities this model reads, in a fixed order: text first, then by name."""
        return tuple(sorted(self.sources, key=lambda name: (name != "text", name)))

    @property
    def images_first(self) -> tuple[str, ...]:
        """The modalities in the order most released programs take them: images, then by name."""
        return tuple(sorted(self.sources, key=lambda name: (name != "image", name)))

    def add_features(self, dataset: Dataset, trainable: bool) -> None:
        """Take every modality of the data set as a feature source. Raises MmfastError when it has none."""
        if not dataset.features:
            raise MmfastError(
                f"{type(self).__name__} needs item features, but data set '{dataset.name}' has none; "
                "add a feature file, run `mmfast features` (again, where the data's files changed since), or choose a "
                "model without features (bpr, lightgcn)"
            )
        kind = TrainableFeatures if trainable else FrozenFeatures
        for modality, features in dataset.features.items():
            self.sources[modality] = kind(features)

    def item_features(self, modality: str, hide: Collection[str] = ()) -> FeatureSource:
        """Return the source of a modality, its mean row in place of every row when the modality is in `hide`."""
        source = self.sources[modality]
        return HiddenFeatures(source) if modality in {*hide, *self.masked} else source

    def set_item_features(self, modality: str, source: FeatureSource) -> None:
        """Put another source behind `item_features(modality)` (door 1); its feature_dim must stay the same."""
        old = self.sources[modality]
        if source.feature_dim != old.feature_dim:
            raise MmfastError(
                f"set_item_features: '{modality}' has feature_dim {source.feature_dim}; the model was built for "
                f"{old.feature_dim}; build the model on a data set with the new features"
            )
        self.sources[modality] = source

    def user_preference(self, modality: str, hide: Collection[str] = ()) -> torch.Tensor:
        """Return the user table [U, D] of a modality; its mean row everywhere when the modality is in `hide`."""
        return preference(self.preferences[modality], modality in hide)

    def interactions(self, graph: Graph) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return the edges of an interaction graph as `user_item_graph` takes them: users, items, U, I."""
        return *user_item_pairs(graph, self.num_users), self.num_users, self.num_items

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges that messages pass over (door 2); positives and evaluation masks stay."""
        nodes = self.num_users + self.num_items
        if graph.num_nodes != nodes:
            raise MmfastError(f"set_interaction_graph: the graph has {graph.num_nodes} nodes; wanted U + I = {nodes}")
        self.graph = graph

    def check_hide(self, hide: Collection[str]) -> frozenset[str]:
        """Return `hide` as a set. Raises MmfastError for a modality the model does not read."""
        for modality in hide:
            if modality not in self.sources:
                known = ", ".join(self.modalities) or "none"
                raise MmfastError(
                    f"hide: {type(self).__name__} reads no modality '{modality}'."
                    f"{suggest(modality, self.modalities)} It reads: {known}"
                )
        return self.masked.union(hide)

    def mask(self, modalities: Collection[str]) -> None:
        """Hide modalities in every pass from now on, that of the loss too: a model of the modalities left."""
        self.masked = self.check_hide(modalities)

    @contextlib.contextmanager
    def sharing(self, hides: Collection[Collection[str]]) -> Iterator[None]:
        """Let the loss and the passes with `hides` hidden, called inside, compute once what they have in common.

        The parameters must stay as they are inside.
        """
        passes, outer = [self.masked, *map(self.check_hide, hides)], (self._states, self._shared)
        self._states = {m: tuple(sorted({m in hide for hide in passes})) for m in self.modalities}
        self._shared = {}
        try:
            yield
        finally:
            self._states, self._shared = outer

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """Return compute(), which must not depend on what is hidden; inside `sharing` it is called once."""
        if self._states is None:
            return compute()
        if (name,) not in self._shared:
            self._shared[(name,)] = compute()
        return self._shared[(name,)]

    def in_state(
        self, name: str, modality: str, hide: Collection[str], compute: Callable[[tuple[bool, ...]], Sequence[T]]
    ) -> T:
        """Return compute((hidden,))[0], hidden: whether `modality` is in `hide`; nothing else hidden may matter.

        Inside `sharing` compute(states) is called once with every state of the modality, and may treat them side by
        side, as tables [R, S, D] in one call of `propagate`.
        """
        hidden = modality in hide
        if self._states is None:
            return compute((hidden,))[0]
        if (name, modality) not in self._shared:
            states = self._states[modality]
            self._shared[name, modality] = dict(zip(states, compute(states), strict=True))
        return self._shared[name, modality][hidden]

    def contents(
        self, modality: str, affine: Callable[[torch.Tensor], torch.Tensor], states: tuple[bool, ...]
    ) -> torch.Tensor:
        """Return affine(features) by state, [I, S, D]; where hidden, the mean of its rows: the mean row's image."""
        if False not in states:
            return self.item_features(modality, (modality,)).through(affine)[:, None]
        shown = self.item_features(modality).through(affine)[:, None]
        if True not in states:
            return shown
        return torch.cat([shown, shown.mean(0, keepdim=True).expand_as(shown)], dim=1)

    def step_rows(self, batch: Batch) -> tuple[Rows | None, Batch]:
        """Return the users and items whose vectors the loss and the margins of a batch read, and the batch in places.

        None, for all, and the batch as it is where every step's vectors are kept, or where inside `sharing` the loss
        sees fewer triples than the margins.
        """
        if getattr(self.config, "stale_eval", False) or (self._states is not None and not self.uses_negatives):
            return None, batch
        users, items, compact = compacted(batch)
        return (users, items), compact

    def vectors_at(self, hide: frozenset[str], rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors of `rows`, (users [R, D], items [S, D])."""
        users, items = self.embed(hide)
        return users.index_select(0, rows[0]), items.index_select(0, rows[1])

    def margins(self, batch: Batch, hides: Sequence[Collection[str]]) -> torch.Tensor:
        """Return u . (p - n) of the batch's triples and its others, with each of `hides` hidden, [len(hides), B + G].

        Inside `sharing`, with the loss of the same batch; a model overrides it where scores are sums over modalities.
        """
        rows, _ = self.step_rows(batch)
        if rows is None:
            return torch.stack([triple_margins(*self.embed(hide), *batch.triples) for hide in hides])
        triples = batch.unique_triples[2]
        return torch.stack([triple_margins(*self.vectors_at(self.check_hide(hide), rows), *triples) for hide in hides])

    def modality_parameters(self, modality: str) -> list[tuple[nn.Parameter, tuple[slice, ...]]]:
        """Return the parameters of one modality alone, each with the part of it that is meant.

        By default those that lie below the modality's name in a `NamedModules`.
        """
        name = PREFIX + modality
        return [(p, ()) for path, p in self.named_parameters() if name in path.split(".") and p.requires_grad]

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]) by the current parameters, to be multiplied (abstract)."""
        raise NotImplementedError

    def id_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the trainable ID tables (users [U, D], items [I, D]), by default the two parts of `self.nodes`."""
        return self.users_and_items(self.nodes.all())

    def nodes_and_parts(self) -> tuple[torch.Tensor, ...]:
        """Return `self.nodes` [N, D] and its two parts, for a loss that uses it whole and a part of it."""
        return whole_and_parts(self.nodes.all(), [self.num_users, self.num_items])

    def users_and_items(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two parts of a table of all nodes [N, D]: users [U, D], items [I, D]."""
        return nodes.split([self.num_users, self.num_items])

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return named, already weighted scalar terms; their sum is minimised (abstract)."""
        raise NotImplementedError

    def add_memory(self, dim: int) -> None:
        """Make room for the vectors [.., dim] of the last training step, where `stale_eval` asks for them."""
        if self.config.stale_eval:
            self.register_buffer("last_users", torch.zeros(self.num_users, dim))
            self.register_buffer("last_items", torch.zeros(self.num_items, dim))
            self.register_buffer("has_last", torch.zeros((), dtype=torch.bool))

    def remember(self, users: torch.Tensor, items: torch.Tensor) -> None:
        """Keep the vectors of a training step: `stale_eval` ranks by them (protocol section 7)."""
        if self.config.stale_eval and self.training:
            self.last_users.copy_(users.detach())
            self.last_items.copy_(items.detach())
            self.has_last.fill_(True)

    def remembered(self, hide: Collection[str]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the kept vectors when an evaluation with nothing hidden is to use them, else None."""
        if not self.config.stale_eval or self.training or hide or not self.has_last:
            return None
        return self.last_users, self.last_items

    def after_step(self) -> None:
        """Follow an optimiser step (a momentum encoder, ...)."""

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Prepare an epoch (resample a graph, ...); all randomness comes from `generator`."""
