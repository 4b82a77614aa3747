"""knn_graph beside torch (blocked, dense) and faiss's exact index.

Run from the repository: `python bench/knn_graph.py [--shapes baby_image baby_text elec_text] [--json]`.
The least work counts each pair of rows once: size^2 * width operations.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from bench._common import emit, measure
from bench._gemm import add_flop_limit, gemm_flops
from mmfast.ops.knn_graph import knn_graph

SHAPES = {"baby_image": (7_050, 4_096), "baby_text": (7_050, 384), "elec_text": (63_001, 384)}
LARGE = 20_000  # rows above which the dense matrix is left out
K = 10


def torch_blocked(features: torch.Tensor, block: int = 1024) -> torch.Tensor:
    """Score a block of rows against all rows, take the top k."""
    x = torch.nn.functional.normalize(features)
    return torch.cat([(rows @ x.T).topk(K).indices for rows in x.split(block)])


def torch_dense(features: torch.Tensor) -> torch.Tensor:
    """The whole similarity matrix, then the top k."""
    x = torch.nn.functional.normalize(features)
    return (x @ x.T).topk(K).indices


def faiss_flat(features: torch.Tensor):
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


def run(name: str, repeat: int) -> dict:
    """Measure one shape."""
    size, width = SHAPES[name]
    features = torch.randn(size, width, generator=torch.Generator().manual_seed(0))
    others = {"torch blocked": lambda: torch_blocked(features)}
    if size <= LARGE:
        others["torch dense"] = lambda: torch_dense(features)
    if (search := faiss_flat(features)) is not None:
        others["faiss IndexFlatIP"] = search
    facts = {"least_bytes": 4 * size * width + 8 * size * K, "least_flops": size * size * width, "repeat": repeat}
    case = measure(
        "knn_graph", f"{name} {size}x{width} k={K}", "forward", lambda: knn_graph(features, K), others, **facts
    )
    return add_flop_limit(case, gemm_flops())


def main() -> None:
    """Parse the arguments and print a case per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["baby_text", "baby_image"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="one JSON object per case")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.shapes:
        emit(run(name, arguments.repeat), arguments.json)


if __name__ == "__main__":
    main()
