"""knn_graph and its update, threshold count beside torch (blocked, dense) and faiss's exact index.

Run from the repository: `python bench/knn_graph.py [--shapes baby_image elec_text] [--precision bfloat16] [--json]`;
`--check --json` adds `rows_unlike_float32`, which ties and float32's own rounding alone may make more than 0.
The least work counts each pair of rows once: size^2 * width operations. `elec_image` (63,001 x 4,096) takes minutes a
search; `image_20k` has its width at 20,000 rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from _cli import emit_shapes, parse, shape_parser
from _common import measure
from _gemm import add_flop_limit, gemm_flops

from mmfast.ops import knn_count, knn_graph, knn_update

SHAPES = {
    "tiny": (300, 48),
    "baby_text": (7_050, 384),
    "baby_image": (7_050, 4_096),
    "sports_text": (18_357, 384),
    "sports_image": (18_357, 4_096),
    "image_20k": (20_000, 4_096),
    "elec_text": (63_001, 384),
    "elec_image": (63_001, 4_096),
    "elec10_text": (630_010, 384),
    "elec10_image": (630_010, 4_096),
}
DENSE_UP_TO = 20_000  # rows; beyond, the whole matrix is left out
K, ETA = 10, 0.5


def torch_blocked(features: torch.Tensor, block: int = 1024) -> torch.Tensor:
    """Score a block of rows against all rows, take the top k."""
    x = torch.nn.functional.normalize(features)
    return torch.cat([(rows @ x.T).topk(K).indices for rows in x.split(block)])


def torch_dense(features: torch.Tensor) -> torch.Tensor:
    """The whole similarity matrix, then the top k."""
    x = torch.nn.functional.normalize(features)
    return (x @ x.T).topk(K).indices


def torch_count(features: torch.Tensor, block: int = 1024) -> torch.Tensor:
    """Score a block of rows against all rows, count those above the threshold."""
    x = torch.nn.functional.normalize(features)
    return torch.cat([(rows @ x.T > ETA).sum(1) for rows in x.split(block)])


def faiss_flat(features: torch.Tensor) -> Callable | None:
    """faiss's exact inner-product index over normalised rows; None when faiss is not installed."""
    try:
        import faiss
    except ImportError:
        print("faiss is not installed; its column is left out", file=sys.stderr)
        return None

    def search():
        faiss.omp_set_num_threads(torch.get_num_threads())
        x = torch.nn.functional.normalize(features).numpy()
        index = faiss.IndexFlatIP(x.shape[1])
        index.add(x)
        return index.search(x, K)

    return search


def alternatives(features: torch.Tensor, names: list[str]) -> dict[str, Callable]:
    """The other ways to the neighbours, those that are asked for."""
    ways = {"torch blocked": lambda: torch_blocked(features), "faiss IndexFlatIP": faiss_flat(features)}
    if len(features) <= DENSE_UP_TO:
        ways["torch dense"] = lambda: torch_dense(features)
    return {name: way for name, way in ways.items() if way is not None and name.split()[0] in names}


def run(name: str, arguments: argparse.Namespace) -> list[dict]:
    """Measure one shape: a search, the update for one row in a hundred, the count above a threshold."""
    size, width = SHAPES[name]
    features = torch.randn(size, width, generator=torch.Generator().manual_seed(0))
    known = size - size // 100
    search, precision = lambda: knn_graph(features, K, precision=arguments.precision), arguments.precision
    limit, cases = gemm_flops(), []

    def add(kind: str, fn: Callable, others: dict[str, Callable], products: int) -> None:
        facts = {"least_bytes": 4 * size * width + 8 * size * K, "least_flops": products * width}
        label = f"{name} {size}x{width} k={K}"
        case = measure("knn_graph", label, kind, fn, others, repeat=arguments.repeat, **facts)
        cases.append(add_flop_limit(case, limit))

    if "search" in arguments.passes:
        others, float32 = alternatives(features, arguments.alternatives), partial(knn_graph, features, K)
        if precision != "float32":
            others["ours float32"] = partial(float32, precision="float32")
        add(f"search ({precision})", search, others, size**2)
        if arguments.check:
            unlike = (search()[0] != float32(precision="float32")[0]).any(1).sum().item()
            cases[-1]["rows_unlike_float32"] = unlike
    if "update" in arguments.passes:
        lists = knn_graph(features[:known], K, precision=precision)
        others = {"search from scratch": search}
        add("update, 1 % new", lambda: knn_update(features, *lists), others, size**2 - known**2)
    if "count" in arguments.passes:
        add("count", lambda: knn_count(features, ETA), {"torch blocked": lambda: torch_count(features)}, size**2)
    return cases


def main() -> None:
    """Parse the arguments and print the cases of every shape."""
    parser = shape_parser(__doc__, ["baby_text", "baby_image"], SHAPES, repeat=5)
    parser.add_argument("--passes", nargs="+", choices=["search", "update", "count"], default=["search"])
    parser.add_argument("--alternatives", nargs="*", choices=["torch", "faiss"], default=["torch", "faiss"])
    parser.add_argument("--check", action="store_true", help="count the rows whose list is not that of float32 alone")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    emit_shapes(parse(parser), run)


if __name__ == "__main__":
    main()
