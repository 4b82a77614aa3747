"""TargetMR's Eq. 7-22 written out item by item in float64, as the paper prints them."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mlp(x, weights, blocks, prefix=""):
    """Linear + ReLU, then `blocks` times h + LN(ReLU(h W + b)), from a state dict."""
    w = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    h = torch.relu(x @ w["stem.weight"].T + w["stem.bias"])
    for n in range(blocks):
        at = f"blocks.{n}."
        inner = torch.relu(h @ w[at + "linear.weight"].T + w[at + "linear.bias"])
        mean, variance = inner.mean(), inner.var(unbiased=False)
        h = h + (inner - mean) / torch.sqrt(variance + 1e-5) * w[at + "norm.weight"] + w[at + "norm.bias"]
    return h


def logits(item, vectors, weights):
    """Eq. 7-8: the logits of one item's objects."""
    found = []
    for j in range(int(vectors.ptr[item]), int(vectors.ptr[item + 1])):
        row = torch.cat([vectors.texts[item], vectors.words[j], weights["positions"][vectors.position[j]]])
        hidden = mlp(row, weights, 6, "body.")
        found.append((hidden @ weights["scoring.weight"].T + weights["scoring.bias"]).squeeze())
    return torch.stack(found) if found else vectors.texts.new_zeros(0)


def selection_loss(items, labels, vectors, weights):
    """Eq. 9-10: the mean over labelled items of -ln of the target's share."""
    total = 0
    for item in items:
        scores = logits(item, vectors, weights)
        total = total - torch.log(torch.exp(scores[labels[item]]) / torch.exp(scores).sum())
    return total / len(items)


def cosine(a, b):
    return (a @ b) / (a.norm().clamp(min=1e-8) * b.norm().clamp(min=1e-8))


def split(rows, chosen):
    """Return (target or None, auxiliaries) of one item's rows."""
    target = rows[chosen] if chosen >= 0 else None
    return target, [row for n, row in enumerate(rows) if n != chosen]


def contrast(image, text, refine):
    """Eq. 19 of items given as (target, auxiliaries); `refine` maps one vector. Items without any are left out."""
    losses = []
    for (v, v_aux), (t, t_aux) in zip(image, text, strict=True):
        v = refine(v)
        positive = torch.exp(cosine(v, t))
        ratios = []
        if v_aux:
            ratios.append(positive / sum(torch.exp(cosine(v, refine(other))) for other in v_aux))
        if t_aux:
            ratios.append(positive / sum(torch.exp(cosine(v, other)) for other in t_aux))
        if ratios:
            losses.append(-torch.log(sum(ratios)))
    return torch.stack(losses).mean()


def features(target, aux, attention):
    """Eq. 20-21 of one item: [t || sum_k b_k a_k]."""
    if not aux:
        return torch.cat([target, torch.zeros_like(target)])
    shares = torch.softmax(torch.stack([(attention.T @ torch.cat([target, other])).squeeze() for other in aux]), 0)
    return torch.cat([target, sum(share * other for share, other in zip(shares, aux, strict=True))])


def extended(pairs, x_com, eta):
    """Eq. 22: each user's items and all items more similar than eta to one of them."""
    found = set(pairs)
    for user, item in pairs:
        for other in range(len(x_com)):
            if other != item and F.cosine_similarity(x_com[item], x_com[other], dim=0, eps=1e-8) > eta:
                found.add((user, other))
    return sorted(found)
