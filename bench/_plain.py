"""What a user would run instead: the four models written as the field writes them, in eager PyTorch.

COO graph products over all nodes, every item projected at every step, dense Adam over every parameter, negatives drawn
user by user in Python, evaluation in blocks of 4,096 users with hits counted in Python. Written for comparison only.
"""

from __future__ import annotations

import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

NAMES = ("bpr", "lightgcn", "vbpr", "freedom")


def norm_adjacency(users, items, num_users, num_nodes):
    """Return G-SYM as a torch COO matrix."""
    rows = np.concatenate([users, items + num_users]).astype(np.int64)
    cols = np.concatenate([items + num_users, users]).astype(np.int64)
    degree = np.bincount(rows, minlength=num_nodes) + 1e-7
    values = torch.from_numpy(1.0 / np.sqrt(degree[rows] * degree[cols])).float()
    index = torch.from_numpy(np.stack([rows, cols]))
    return torch.sparse_coo_tensor(index, values, (num_nodes, num_nodes), check_invariants=False)


class PlainModel(nn.Module):
    """bpr, lightgcn, vbpr or freedom by name; `options` are those of the mmfast model."""

    def __init__(self, name, dataset, **options):
        super().__init__()
        self.name, self.options, self.data = name, options, dataset
        self.num_users, self.num_items = dataset.num_users, dataset.num_items
        nodes = self.num_users + self.num_items
        width = 128 if name == "vbpr" else 64
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.num_users, width)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.num_items, 64)))
        pairs = dataset.train
        if name in ("lightgcn", "freedom"):
            self.adjacency = norm_adjacency(pairs.users, pairs.items, self.num_users, nodes)
        if name in ("vbpr", "freedom"):
            self.features = {m: torch.from_numpy(np.array(f, dtype=np.float32)) for m, f in dataset.features.items()}
        if name == "vbpr":
            self.joined = torch.cat([self.features[m] for m in sorted(self.features, reverse=True)], dim=1)
            self.project = nn.Linear(self.joined.shape[1], 64)
        if name == "freedom":
            self.raw = nn.ParameterDict({m: nn.Parameter(f) for m, f in self.features.items()})
            self.project = nn.ModuleDict({m: nn.Linear(f.shape[1], 64) for m, f in self.features.items()})
            self.item_graph = self._item_graph()

    def _item_graph(self):
        total = torch.zeros(0)
        weights = {"image": 0.1, "text": 0.9} if len(self.features) > 1 else dict.fromkeys(self.features, 1.0)
        for modality, features in self.features.items():
            unit = F.normalize(features)
            neighbours = (unit @ unit.t()).topk(10).indices
            rows = torch.arange(self.num_items).repeat_interleave(10)
            index = torch.stack([rows, neighbours.flatten()])
            values = torch.full((index.shape[1],), weights[modality] / 10)
            graph = torch.sparse_coo_tensor(index, values, (self.num_items,) * 2, check_invariants=False)
            total = graph if total.numel() == 0 else total + graph
        return total.coalesce()

    def before_epoch(self):
        """FREEDOM's edge sampling: keep a fifth of the edges, likelier between nodes of low degree."""
        if self.name != "freedom":
            return
        users, items = self.data.train.users, self.data.train.items
        degree_u, degree_i = np.bincount(users, minlength=self.num_users), np.bincount(items, minlength=self.num_items)
        weights = torch.from_numpy(1.0 / np.sqrt(degree_u[users] * degree_i[items]))
        kept = torch.multinomial(weights, len(users) // 5).numpy()
        nodes = self.num_users + self.num_items
        self.sampled = norm_adjacency(users[kept], items[kept], self.num_users, nodes)

    def vectors(self, training=False):
        """Return user and item vectors, everything propagated and projected."""
        if self.name == "bpr":
            return self.users, self.items
        if self.name == "vbpr":
            return self.users, torch.cat([self.items, self.project(self.joined)], dim=1)
        layer = torch.cat([self.users, self.items])
        layers = [layer]
        graph = self.sampled if training and self.name == "freedom" else self.adjacency
        for _ in range(self.options.get("num_layers", 2)):
            layer = torch.sparse.mm(graph, layer)
            layers.append(layer)
        users, items = torch.stack(layers, dim=1).mean(1).split([self.num_users, self.num_items])
        if self.name == "freedom":
            items = items + torch.sparse.mm(self.item_graph, self.items)
        return users, items

    def loss(self, user, pos, neg):
        """Return the batch loss."""
        users, items = self.vectors(training=True)

        def bpr(table):
            return -torch.log(1e-10 + torch.sigmoid((users[user] * (table[pos] - table[neg])).sum(1))).mean()

        loss = bpr(items)
        if self.name == "freedom":
            for modality, project in self.project.items():
                loss = loss + 1e-3 * bpr(project(self.raw[modality]))
            return loss
        base = (self.users, self.items) if self.name == "lightgcn" else (users, items)
        norms = base[0][user].norm() + base[1][pos].norm() + base[1][neg].norm()
        return loss + 1e-3 * norms / len(user)


def batches(dataset, batch_size):
    """Yield shuffled batches with one negative each, drawn row by row in Python."""
    users, items = dataset.train.users, dataset.train.items
    history: dict[int, set] = {}
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        history.setdefault(user, set()).add(item)
    candidates = np.unique(items).tolist()
    order = np.random.default_rng(0).permutation(len(users))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        negatives = []
        for user in users[rows].tolist():
            drawn = random.sample(candidates, 1)[0]
            while drawn in history[user]:
                drawn = random.sample(candidates, 1)[0]
            negatives.append(drawn)
        yield tuple(torch.as_tensor(np.asarray(a), dtype=torch.long) for a in (users[rows], items[rows], negatives))


def epoch_seconds(name, dataset, batch_size, max_batches, **options):
    """Return the seconds of one epoch (extrapolated from `max_batches` batches) and the model."""
    model = PlainModel(name, dataset, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    steps = -(-len(dataset.train) // batch_size)
    started = time.perf_counter()
    model.before_epoch()
    hook = time.perf_counter() - started
    times, started = [], time.perf_counter()
    for step, batch in enumerate(batches(dataset, batch_size)):
        optimizer.zero_grad()
        model.loss(*batch).backward()
        optimizer.step()
        now = time.perf_counter()
        times.append(now - started)
        started = now
        if step + 1 >= max_batches:
            break
    return hook + float(np.median(times[1:] or times)) * steps, model


def evaluation_seconds(model, dataset, part="valid"):
    """Return the seconds of one full-ranking evaluation."""
    started = time.perf_counter()
    with torch.no_grad():
        rows = getattr(dataset, part)
        offsets, seen = dataset.train.by_user(dataset.num_users)
        truth: dict[int, set] = {}
        for user, item in zip(rows.users.tolist(), rows.items.tolist(), strict=True):
            truth.setdefault(user, set()).add(item)
        evaluated = np.unique(rows.users)
        hits = []
        for start in range(0, len(evaluated), 4096):
            block = evaluated[start : start + 4096]
            users, items = model.vectors()  # once per block, as the reference loop does
            scores = users[torch.from_numpy(block).long()] @ items.t()
            counts = offsets[block + 1] - offsets[block]
            at = np.repeat(np.arange(len(block)), counts)
            masked = np.concatenate([seen[offsets[u] : offsets[u + 1]] for u in block])
            scores[torch.from_numpy(at), torch.from_numpy(masked).long()] = -1e10
            top = scores.topk(50).indices.numpy()
            hits += [[item in truth[user] for item in row] for user, row in zip(block.tolist(), top, strict=True)]
        np.asarray(hits)[:, :20].sum(1).mean()
    return time.perf_counter() - started
