"""mmfast: a fast engine for multimodal recommendation, whose public names load what they need when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "fit": "mmfast.trainer",
    "search": "mmfast.search",
    "load": "mmfast.run",
    "evaluate": "mmfast.evaluate",
    "recommend": "mmfast.recommend",
    "similar_items": "mmfast.recommend",
    "export_index": "mmfast.export",
    "load_dataset": "mmfast.data.load",
    "load_config": "mmfast.config",
    "Dataset": "mmfast.data.dataset",
    "Recommender": "mmfast.models.base",
    "MODELS": "mmfast.registry",
    "FRAMEWORKS": "mmfast.registry",
    "DATASETS": "mmfast.registry",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmfast' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
