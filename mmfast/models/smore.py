"""SMORE: features filtered and fused in the frequency domain, then item graphs (Ong and Khong, WSDM 2025), as released.

With M modalities the fused view multiplies all M spectra; the released code has two.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from mmfast.config import ModelConfig
from mmfast.dataset_graphs import cosine_graphs
from mmfast.embeddings import EmbeddingTable, linear
from mmfast.graph import Graph, user_item_block, user_item_graph
from mmfast.item_graphs import union_graph
from mmfast.models.base import Recommender
from mmfast.models.layers import Query, Rows, propagated, two_view_loss, users_beside_items
from mmfast.models.named import NamedModules
from mmfast.registry import MODELS

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch

FUSION = "&"  # name of the fused view beside the modalities'


class Filter(nn.Module):
    """A complex weight per frequency of vectors of width D."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.empty(dim // 2 + 1, 2).normal_(generator=generator))

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Return the vectors [R, D] of a filtered spectrum, complex [R, D // 2 + 1]."""
        return torch.fft.irfft(spectrum * torch.view_as_complex(self.weight), n=self.dim, dim=1, norm="ortho")


@MODELS.register("smore")
class SMORE(Recommender):
    """Final = LightGCN mean + the mean of gated modality views and the fused view."""

    over_ranks = "rows"

    class Config(ModelConfig):
        """Options of SMORE; the released code decays the rate: `train.lr_decay=[0.96, 50]`."""

        num_layers: int = Field(4, ge=0)
        """Propagation layers on the user-item graph (n_ui_layers); the grid is 3, 4."""
        num_item_layers: int = Field(1, ge=0)
        """Products with the item graphs (n_layers)."""
        k: int = Field(10, ge=1)
        """Neighbours per item, itself included, of a modality that `neighbours` does not name."""
        neighbours: dict[str, int] = Field({})
        """Neighbours by modality (image_knn_k, text_knn_k); the grid is 10, 15, 20, 40."""
        reg_weight: float = Field(1e-4, ge=0)
        """Weight of R-HALF on final vectors; the grid is 1e-5, 1e-4."""
        cl_weight: float = Field(0.01, ge=0)
        """Weight of the contrast of side and behaviour (cl_loss)."""
        temperature: float = Field(0.2, gt=0)
        """Temperature of the contrast (fixed in the code)."""
        dropout: float = Field(0.1, ge=0, lt=1)
        """Dropout of the preference gates; the grid is 0, 0.1."""
        train_features: bool = True
        """Train the raw features (released code); False trains the projections alone."""

    def __init__(self, config: Config, dataset: Dataset, generator: torch.Generator) -> None:
        super().__init__(config, dataset, generator)
        self.add_features(dataset, trainable=config.train_features)
        sizes, dim = [self.num_users, self.num_items], config.embedding_dim
        self.nodes = EmbeddingTable(sizes, dim, "xavier_uniform", generator)
        modalities, views = self.modalities, self.views
        dims = {m: self.item_features(m).feature_dim for m in modalities}
        self.projections = NamedModules({m: linear(dims[m], dim, generator) for m in modalities})
        self.filters = NamedModules({v: Filter(dim, generator) for v in views})
        self.gates = NamedModules({v: linear(dim, dim, generator) for v in views})
        self.queries = NamedModules({m: Query(dim, dim, generator) for m in modalities})
        self.preference_gates = NamedModules({v: linear(dim, dim, generator) for v in views})
        neighbours = {m: config.neighbours.get(m, config.k) for m in modalities}
        graphs = cosine_graphs(dataset, modalities, neighbours)
        self.item_graphs = NamedModules({**graphs, FUSION: union_graph(graphs)})
        self.set_interaction_graph(user_item_graph(dataset.train.users, dataset.train.items, *sizes))

    @property
    def views(self) -> tuple[str, ...]:
        """The modalities and the fused view."""
        return (*self.modalities, FUSION)

    def set_interaction_graph(self, graph: Graph) -> None:
        """Replace the edges of messages (door 2), normalised without epsilon."""
        edges = self.interactions(graph)
        super().set_interaction_graph(user_item_graph(*edges, "sym0"))
        self.block = user_item_block(*edges, "sym0")

    def filtered(self, hide: frozenset[str]) -> dict[str, torch.Tensor]:
        """Return the filtered content by view, [I, D] each."""
        spectra, fused = {}, None
        for modality, projection in self.projections.items():
            content = self.item_features(modality, hide).through(projection)
            spectra[modality] = torch.fft.rfft(content.float(), dim=1, norm="ortho")
            fused = spectra[modality] if fused is None else fused * spectra[modality]
        spectra[FUSION] = fused
        return {view: self.filters[view](spectrum) for view, spectrum in spectra.items()}

    def smoothed(self, view: str, content: torch.Tensor, rows: Rows | None) -> torch.Tensor:
        """Return a view at `rows`, [R, D]: gated item IDs on the view's item graph, then users from items."""
        items = self.id_embeddings()[1] * torch.sigmoid(self.gates[view](content))
        items = self.item_graphs[view].propagate(items, self.config.num_item_layers, "last")
        return users_beside_items(self.block, items, rows)

    def preference(self, view: str, behaviour: torch.Tensor) -> torch.Tensor:
        """Return the dropped-out preference gate of a view, [R, D], from the behaviour view [R, D]."""
        gate = torch.sigmoid(self.preference_gates[view](behaviour))
        return F.dropout(gate, self.config.dropout, self.training)

    def behaviour_and_side(self, hide: frozenset[str], rows: Rows | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the behaviour view and the side view, [R, D] each, of `rows` (None: all); final vectors add them."""
        behaviour = self.once(
            "behaviour", lambda: propagated(self.graph, self.nodes.all(), self.config.num_layers, self.num_users, rows)
        )
        views = {view: self.smoothed(view, content, rows) for view, content in self.filtered(hide).items()}
        side = self.preference(FUSION, behaviour) * views[FUSION]
        for modality, query in self.queries.items():
            attention = torch.softmax(query(views[FUSION]), dim=1)  # over the columns, as released
            side = side + self.preference(modality, behaviour) * attention * views[modality]
        return behaviour, side / len(views)

    def embed(self, hide: Collection[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors (users [U, D], items [I, D]); a hidden modality keeps its item graph."""
        behaviour, side = self.behaviour_and_side(self.check_hide(hide))
        return self.users_and_items(behaviour + side)

    def vectors_at(self, hide: frozenset[str], rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final vectors of `rows`, (users [R, D], items [S, D])."""
        return sum(self.behaviour_and_side(hide, rows)).split([len(part) for part in rows])

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return `bpr`, `reg` and the contrasts `cl_items` and `cl_users` of side against behaviour."""
        rows, compact = self.step_rows(batch)
        return two_view_loss(self.config, compact, *self.behaviour_and_side(self.masked, rows))
