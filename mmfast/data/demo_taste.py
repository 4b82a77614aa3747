"""The demo catalogue's users: latent tastes over kind, colour and style, and what they chose from the catalogue."""

from __future__ import annotations

import numpy as np

from mmfast.data.demo_scenes import COLOURS, KINDS, STYLES, Scene, stream

# Strength of each taste in the log-odds of a choice. Auxiliary objects have none: to a model they are noise.
KIND_PULL, COLOUR_PULL, STYLE_PULL = 2.7, 2.5, 2.5
POPULARITY_SPREAD = 0.7  # standard deviation of an item's log-popularity
NEW_SHARE, NEW_DROP = 0.03, 2.5  # new items: their share, and how far their log-popularity lies below the others'
STRAY_SHARE = 0.12  # share of a user's choices that popularity alone decides
FEWEST_CHOICES, MEAN_EXTRA_CHOICES = 5, 7.5
BLOCK_USERS = 512


def draw_choices(seed: int, scenes: list[Scene], num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the chosen pairs (users, items), int32 [E] each, sorted by user and item, none twice, 5 or more a user."""
    rng = stream(seed, 3)
    popularity = rng.normal(0.0, POPULARITY_SPREAD, len(scenes)).astype(np.float32)
    popularity[rng.random(len(scenes)) < NEW_SHARE] -= NEW_DROP
    counts = _choice_counts(rng, num_users, len(scenes))
    users, items = [], []
    for start in range(0, num_users, BLOCK_USERS):
        block = counts[start : start + BLOCK_USERS]
        ranked = _rank(_appeal(rng, scenes, len(block)), popularity, rng)
        taken = np.arange(ranked.shape[1]) < block[:, None]
        users.append(start + np.repeat(np.arange(len(block)), block))
        items.append(np.sort(np.where(taken, ranked, len(scenes)), axis=1)[taken])
    return np.concatenate(users).astype(np.int32), np.concatenate(items).astype(np.int32)


def _choice_counts(rng: np.random.Generator, num_users: int, num_items: int) -> np.ndarray:
    extra = rng.geometric(1 / (1 + MEAN_EXTRA_CHOICES), num_users) - 1
    return np.minimum(FEWEST_CHOICES + extra, max(FEWEST_CHOICES, min(60, num_items // 4)))


def _appeal(rng: np.random.Generator, scenes: list[Scene], num_users: int) -> np.ndarray:
    """Return how the target objects please each user, float32 [users, items], in log-odds."""
    kinds = np.array([KINDS.index(scene.target.kind) for scene in scenes])
    colours = np.array([list(COLOURS).index(scene.target.colour) for scene in scenes])
    styles = np.array([STYLES.index(scene.target.style) for scene in scenes])
    liked_kinds = _likes(rng, num_users, len(KINDS), (1, 2, 3))
    liked_colours = _likes(rng, num_users, len(COLOURS), (2, 3, 4))
    liked_styles = _likes(rng, num_users, len(STYLES), (1, 1, 2))
    return (
        KIND_PULL * liked_kinds[:, kinds]
        + COLOUR_PULL * liked_colours[:, colours]
        + STYLE_PULL * liked_styles[:, styles]
    )


def _likes(rng: np.random.Generator, num_users: int, size: int, numbers: tuple[int, ...]) -> np.ndarray:
    """Return float32 [users, size]: 1 down to 0.6 for the few values a user likes, 0 for the others."""
    rank = rng.random((num_users, size)).argsort(axis=1).argsort(axis=1)
    liked = rank < rng.choice(numbers, num_users)[:, None]
    return (liked * (1.0 - 0.2 * np.minimum(rank, 2))).astype(np.float32)


def _rank(appeal: np.ndarray, popularity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the items in the order in which each user takes them, int64 [users, items].

    Gumbel noise on log-odds orders items as draws without replacement would. A share of the odds sees no taste, only
    popularity: the stray choices.
    """
    gumbel = rng.gumbel(size=appeal.shape).astype(np.float32)
    mean_pull = np.log(np.mean(np.exp(appeal), axis=1, keepdims=True))
    tasted = np.log((1 - STRAY_SHARE) * np.exp(appeal - mean_pull) + STRAY_SHARE)
    return np.argsort(-(tasted + popularity + gumbel), axis=1, kind="stable")
