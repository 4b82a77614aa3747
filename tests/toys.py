"""A data set of a few hundred rows and a model of a few lines, for the tests of the training rooms."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import nn

from mmfast.config import ModelConfig, RunConfig, build_config
from mmfast.data.dataset import Dataset, Interactions
from mmfast.data.ids import IdTable
from mmfast.models.base import Recommender
from mmfast.registry import MODELS


@MODELS.register("toy")
class Toy(Recommender):
    """Matrix factorisation with dropout from torch's global generator and noise from the epoch's own."""

    class Config(ModelConfig):
        """Options of the toy."""

        embedding_dim: int = 8
        dropout: float = 0.2
        explode_at: int = -1
        """Batch, counted over epochs, whose loss term `bpr` is nan; -1 never."""
        break_at: int = -1
        """Batch, counted over epochs, whose loss is finite but whose gradient is nan; -1 never."""

    def __init__(self, config, dataset, generator):
        super().__init__(config, dataset, generator)
        shape = (self.num_users + self.num_items, config.embedding_dim)
        self.table = nn.Parameter(torch.empty(shape).normal_(std=0.1, generator=generator))
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("noise", torch.zeros(config.embedding_dim))
        self.steps = 0

    def on_epoch_start(self, epoch, generator):
        self.noise = torch.randn(self.noise.shape, generator=generator) * 0.01

    def embed(self, hide=()):
        self.check_hide(hide)
        return self.table[: self.num_users], self.table[self.num_users :]

    def id_embeddings(self):
        return self.embed()

    def loss(self, batch):
        users, items = self.embed()
        users = F.dropout(users + self.noise, self.config.dropout, self.training)
        user = users[batch.users.long()]
        margin = (user * (items[batch.pos_items.long()] - items[batch.neg_items.long()])).sum(1)
        bpr = F.softplus(-margin).mean()
        self.steps += 1
        if self.steps - 1 == self.config.explode_at:
            bpr = bpr * float("nan")
        if self.steps - 1 == self.config.break_at:
            bpr = bpr + (user - user).abs().sum().sqrt()  # 0, of infinite slope
        return {"bpr": bpr, "reg": 1e-4 * user.square().mean()}


def toy_dataset(num_users: int = 30, num_items: int = 24, name: str = "toys", shift: int = 0) -> Dataset:
    """Users like every third item, by their own number modulo three; four of those are held out."""
    users, items, parts = [], [], []
    for user in range(num_users):
        liked = [item for item in range(num_items - 1) if item % 3 == (user + shift) % 3]
        order = np.random.default_rng(user).permutation(liked)
        for place, item in enumerate(order):
            users.append(user)
            items.append(int(item))
            parts.append(1 if place < 2 else 2 if place < 4 else 0)
    users, items, parts = np.array(users), np.array(items), np.array(parts)
    pairs = {
        name: Interactions.from_pairs(users[parts == k], items[parts == k])
        for k, name in enumerate(("train", "valid", "test"))
    }
    table = pl.DataFrame(
        {"id": [f"B{i:03d}" for i in range(num_items)], "title": [f"Toy {i}" for i in range(num_items)]}
    )
    return Dataset(
        name,
        num_users,
        num_items,
        **pairs,
        user_id_table=IdTable("user", num_users, lambda: pl.DataFrame({"id": [f"A{u:03d}" for u in range(num_users)]})),
        item_id_table=IdTable("item", num_items, lambda: table),
    )


def toy_config(tmp_path, **changes) -> RunConfig:
    """A config of a few quick epochs; `train`, `model`, `evaluate` and the rest may be changed."""
    raw = {
        "model": {"name": "toy", **changes.pop("model", {})},
        "data": {"name": "toys"},
        "train": {"epochs": 4, "batch_size": 32, "learning_rate": 0.05, "monitor": "recall@5", "checkpoint_seconds": 0}
        | changes.pop("train", {}),
        "evaluate": {"top_k": [5, 10], "batch_users": 7} | changes.pop("evaluate", {}),
        "out": str(tmp_path / "runs"),
        "device": "cpu",
        "tensorboard": False,
    }
    return build_config(raw | changes)


def interrupt_fit(monkeypatch, number: int) -> list:
    """Let the call of that number of `mmfast.trainer.fit` be interrupted; return the list of configs it grows by."""
    import mmfast.trainer

    trained, fit = [], mmfast.trainer.fit

    def counted(config, *args, **options):
        trained.append(config)
        if len(trained) == number:
            raise KeyboardInterrupt
        return fit(config, *args, **options)

    monkeypatch.setattr(mmfast.trainer, "fit", counted)
    return trained
