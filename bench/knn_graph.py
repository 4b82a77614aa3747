"""knn_graph, its update, and the pairs above a threshold, beside torch (blocked, dense) and faiss's exact index.

Run from the repository: `python bench/knn_graph.py [--shapes baby_image elec_text] [--precision bfloat16]
[--device cuda] [--json]`; `--check --json` adds `rows_unlike_float32`, which is 0: one product in one order decides,
whatever proposes. The least work counts each pair of rows once: size^2 * width operations. A search's limit is the rate
of products of the type that proposes, the other passes' that of float32. faiss's index is of the CPU. `elec_image`
(63,001 x 4,096) takes minutes a search on a CPU; `image_20k` has its width at 20,000 rows. A pass of more than
`MOST_WORK` operations, an hour and more there, is left out: of ten times Electronics, the update alone is measured, its
lists random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from _cli import emit_shapes, parse, shape_parser
from _common import leave_out, measure
from _gemm import add_flop_limit, gemm_flops, product_type

from mmfast.ops import knn_count, knn_graph, knn_threshold, knn_update

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
PASSES = ["search", "update", "count", "threshold"]
DENSE_UP_TO = 20_000  # rows; beyond, the whole matrix is left out
K, ETA = 10, 3.5  # neighbours; threshold in standard deviations of random rows' cosine, 1 / sqrt(width)
MOST_WORK = 1e14
MOST_BYTES = 3 << 30


def torch_blocked(features: torch.Tensor, block: int = 1024) -> torch.Tensor:
    """Score a block of rows against all rows, take the top k."""
    x = torch.nn.functional.normalize(features)
    return torch.cat([(rows @ x.T).topk(K).indices for rows in x.split(block)])


def torch_dense(features: torch.Tensor) -> torch.Tensor:
    """The whole similarity matrix, then the top k."""
    x = torch.nn.functional.normalize(features)
    return (x @ x.T).topk(K).indices


def torch_count(features: torch.Tensor, eta: float, block: int = 1024) -> torch.Tensor:
    """Score a block of rows against all rows, count those above the threshold."""
    x = torch.nn.functional.normalize(features)
    return torch.cat([(rows @ x.T > eta).sum(1) for rows in x.split(block)])


def torch_threshold(features: torch.Tensor, eta: float, block: int = 1024) -> list[torch.Tensor]:
    """Score a block of rows against all rows, keep the pairs above the threshold, in no order."""
    x = torch.nn.functional.normalize(features)
    return [(rows @ x.T > eta).nonzero() for rows in x.split(block)]


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
    ways = {"torch blocked": lambda: torch_blocked(features)}
    if not features.is_cuda:
        ways["faiss IndexFlatIP"] = faiss_flat(features)
    if len(features) <= DENSE_UP_TO:
        ways["torch dense"] = lambda: torch_dense(features)
    return {name: way for name, way in ways.items() if way is not None and name.split()[0] in names}


def passes(name: str, features: torch.Tensor, arguments: argparse.Namespace) -> Iterator[tuple]:
    """Yield (op, kind, call, its alternatives, products made, their type) of the passes asked for."""
    size, width = features.shape
    known, precision, eta = size - size // 100, arguments.precision, ETA / width**0.5
    search = partial(knn_graph, features, K, precision=precision)
    possible = possible_work(f"knn_graph {name}", size, width)
    if "search" in arguments.passes and possible:
        others = alternatives(features, arguments.alternatives)
        if precision != "float32":
            others["ours float32"] = partial(knn_graph, features, K, precision="float32")
        proposing = product_type(precision, width, arguments.device)
        yield "knn_graph", f"search ({precision})", search, others, size**2, proposing
    if "update" in arguments.passes:
        lists = knn_graph(features[:known], K, precision=precision) if possible else invented_lists(known, width)
        lists = [t.to(features.device) for t in lists]
        others = {"search from scratch": search} if possible else {}
        update = partial(knn_update, features, *lists)
        yield "knn_update", "update, 1 % new", update, others, size**2 - known**2, torch.float32
    if "count" in arguments.passes and possible:
        others = {"torch blocked": lambda: torch_count(features, eta)}
        yield "knn_count", "count", partial(knn_count, features, eta), others, size**2, torch.float32
    if "threshold" in arguments.passes and possible:
        others = {"torch blocked": lambda: torch_threshold(features, eta)}
        pairs = partial(knn_threshold, features, eta)
        yield "knn_threshold", "count and store", pairs, others, size**2, torch.float32


def possible_work(what: str, size: int, width: int) -> bool:
    """Whether a whole search takes minutes at most; where not, that is said."""
    if size**2 * width <= MOST_WORK:
        return True
    leave_out(f"{what}, whole passes", f"{size**2 * width / 1e12:.0f} TFLOP, more than minutes of a CPU")
    return False


def invented_lists(size: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of similarities as high as the best of many random rows: an update replaces few, as in true lists."""
    neighbours = torch.randint(0, size, (size, K), dtype=torch.int32)
    return neighbours, torch.full((size, K), 4.5 / width**0.5)


def run(name: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Measure the passes asked for at one shape."""
    size, width = SHAPES[name]
    if 4 * size * width > MOST_BYTES:
        leave_out(f"knn_graph {name}", f"{size} x {width} random numbers are more memory than is asked for")
        return
    features = torch.randn(size, width, generator=torch.Generator().manual_seed(0)).to(arguments.device)
    label, common = f"{name} {size}x{width} k={K}", {"repeat": arguments.repeat, "device": arguments.device}
    for op, kind, call, others, products, dtype in passes(name, features, arguments):
        facts = {"least_bytes": 4 * size * width + 8 * size * K, "least_flops": products * width}
        case = measure(op, label, kind, call, others, **common, **facts)
        if arguments.check and op == "knn_graph":
            found, exact = call()[0], knn_graph(features, K, precision="float32")[0]
            case["rows_unlike_float32"] = (found != exact).any(1).sum().item()
        yield add_flop_limit(case, gemm_flops(device=arguments.device, dtype=dtype))


def main() -> None:
    """Parse the arguments and print the cases of every shape."""
    parser = shape_parser(__doc__, ["baby_text", "baby_image"], SHAPES, repeat=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--alternatives", nargs="*", choices=["torch", "faiss"], default=["torch", "faiss"])
    parser.add_argument("--check", action="store_true", help="count the rows whose list is not that of float32 alone")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    emit_shapes(parse(parser), run)


if __name__ == "__main__":
    main()
