"""Backbones with and without TargetMR on one catalogue over seeds: test metrics, and how often targets are found.

python bench/targetmr.py --parser FOLDER                                five backbones, plain and with TargetMR
python bench/targetmr.py --parser FOLDER --models mentor --ablations    the five parts left out, one by one
python bench/targetmr.py --parser FOLDER --models mentor --sweep eta 0.1 0.3 0.5 0.7 0.9
python bench/targetmr.py --parser FOLDER --models mentor --sweep objects.context 2 4 8 16 32
python bench/targetmr.py --parser FOLDER --models mentor --sweep labels.failure_rate 0.8 0.6 0.4 0.2
python bench/targetmr.py --parser FOLDER --models mentor --transfer 1 2

"data" reads the data set's own features, "raw" the whole texts and photos by the encoder that TargetMR uses. The
transfer takes selectors (and the light encoder) of the demo catalogues of these seeds, each alone and all together,
and no label of the data set. Runs that the result file holds, of the same configs, are not repeated; it is
bench/results/targetmr-<data>.json, written after every run. `--out FOLDER` writes table.md and picture.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _origin import origin

from mmfast.cli import main as main_of_mmfast
from mmfast.config import RunConfig, load_config
from mmfast.data.demo import demo_folder
from mmfast.data.hashing import hash_json
from mmfast.data.load import load_dataset
from mmfast.frameworks.targetmr import light_pair
from mmfast.settings import read_settings

ROOT = Path(__file__).parents[1]
PAPER = ("bm3", "freedom", "mgcn", "lgmrec", "mentor")
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
SOURCES = "sources"  # what follows are not settings but the seeds of catalogues
OF_SELECTORS = {"objects", "labels", "select", "refine", "positions", "normalize_each"}
PARTS = ("POS", "SYP", "ITS", "RRF", "TAL")


def config_of(model: str, args: argparse.Namespace, out: str, *more: str) -> RunConfig:
    """Return the config of a model with TargetMR on the data asked for."""
    settings = [f"data={args.data}", f"out={out}", "tensorboard=false", "threads=1", "device=cpu", *more]
    if args.parser:
        settings.append(f"framework.objects.parse.pipeline={args.parser}")
    return load_config(ROOT / "configs" / f"demo_{model}_targetmr.yaml", [*settings, *args.settings])


def origin_of(model: str) -> str:
    """Return what changes with the config of a model and with the light encoder: kept runs of another are not used."""
    encoder = [light_pair.VERSION, light_pair.TEXT_LENGTH, light_pair.WORD_LENGTH, light_pair.PICTURE_LENGTH]
    return hash_json([read_settings(ROOT / "configs" / f"demo_{model}_targetmr.yaml", []), encoder])[:12]


def cases_of(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return name -> settings of what is compared."""
    if args.ablations:
        return {"targetmr": [], **{f"w/o {part}": [f"framework.without=[{part}]"] for part in PARTS}}
    if args.sweep:
        name, *values = args.sweep
        return {f"{name}={value}": [f"framework.{name}={value}"] for value in values}
    if args.transfer:
        unions = [[seed] for seed in args.transfer] + ([args.transfer] if len(args.transfer) > 1 else [])
        return {"targetmr": [], **{f"from {' and '.join(map(str, union))}": [SOURCES, *union] for union in unions}}
    cases = {"raw": [], "targetmr": [], "data": []}
    return {name: cases[name] for name in args.cases or cases}


def transferred(model: str, seeds: list[str], seed: int, args: argparse.Namespace, out: str) -> list[str]:
    """Train selectors on the demo catalogues of some seeds and return the settings that use them."""
    config = config_of(model, args, out)
    section = config.framework[0].model_dump(mode="json", include=OF_SELECTORS, exclude_unset=True)
    file = Path(out) / "selectors"
    sources = [str(demo_folder(seed=int(source))) for source in seeds]
    settings = [f"{name}={json.dumps(value)}" for name, value in section.items()]
    options = ["--seed", str(seed), "--out", str(file), "--quiet"]
    if main_of_mmfast(["targetmr", "transfer", args.data, *settings, "--from", *sources, *options]):
        raise SystemExit("the selectors were not trained")
    return [f"framework.selectors={file}", f"framework.objects.encoder=light:{file}.encoder"]


def one_run(model: str, case: str, settings: list[str], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one model in one case and return its metrics and, with TargetMR, the stages' scores."""
    from mmfast.frameworks.targetmr.prepared import catalogue_of, prepare_targets
    from mmfast.frameworks.targetmr.truth import truth_scores
    from mmfast.trainer import fit

    with tempfile.TemporaryDirectory() as out:
        if settings[:1] == [SOURCES]:
            settings = transferred(model, settings[1:], seed, args, out)
        config = config_of(model, args, out, f"seed={seed}", *settings)
        dataset, section = load_dataset(config), config.framework[0]
        told: dict[str, Any] = {}
        if case in ("data", "raw"):
            if case == "raw":
                objects = prepare_targets(section, config, dataset).objects
                tables = {"text": objects.text.texts.numpy(), "image": objects.photos.numpy()}
                dataset = dataset.with_features(tables)
            config = config.model_copy(update={"framework": ()})
        else:
            prepared = prepare_targets(section, config, dataset)
            told = {"truth": truth_scores(catalogue_of(config, False), prepared.found, prepared.targets)}
            told["held_out_accuracy"] = prepared.about["held_out_accuracy"]
        run = fit(config, dataset, progress=False)
        log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return {
        "test": {name: run.metrics["test"][name] for name in METRICS},
        "epochs": run.metrics["epochs"],
        "epoch_s": statistics.median(row["seconds"] for row in log),
        **told,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return means over seeds as a Markdown table, and the stages' scores behind them."""
    lines = [f"| model | case | seeds | {' | '.join(METRICS)} | text target | image target |", "|" + "---|" * 9]
    for model, case in dict.fromkeys((row["model"], row["case"]) for row in rows):
        own = [row for row in rows if (row["model"], row["case"]) == (model, case)]
        means = [f"{statistics.mean(row['test'][name] for row in own):.4f}" for name in METRICS]
        found = [
            f"{statistics.mean(row['truth'][name] for row in own):.3f}"
            if all(name in row.get("truth", {}) for row in own)
            else ""
            for name in ("text", "image")
        ]
        lines.append(f"| {model} | {case} | {len(own)} | {' | '.join([*means, *found])} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw recall@20 of every model and case: the mean, and from the least to the most over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    models, cases = (list(dict.fromkeys(row[name] for row in rows)) for name in ("model", "case"))
    for n, case in enumerate(cases):
        values = [[r["test"]["recall@20"] for r in rows if (r["model"], r["case"]) == (m, case)] for m in models]
        means = [statistics.mean(own) for own in values]
        pairs = list(zip(means, values, strict=True))
        reach = [[m - min(own) for m, own in pairs], [max(own) - m for m, own in pairs]]
        places = [at + 0.8 * (n + 0.5) / len(cases) - 0.4 for at in range(len(models))]
        axes.bar(places, means, 0.75 / len(cases), yerr=reach, capsize=2, label=case)
    axes.set(xticks=range(len(models)), xticklabels=models, ylabel="test recall@20")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run what is not there yet and print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of all runs")
    parser.add_argument("--data", default="demo", help="demo, or a demo catalogue's folder")
    parser.add_argument("--parser", help="spaCy pipeline or its folder (that of the configs)")
    parser.add_argument("--models", nargs="+", default=PAPER)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--cases", nargs="+", choices=("raw", "targetmr", "data"), help="some of the three")
    parser.add_argument("--ablations", action="store_true", help="leave out one part after the other")
    parser.add_argument("--sweep", nargs="+", metavar="SETTING VALUE", help="a setting of the framework and its values")
    parser.add_argument("--transfer", nargs="+", type=int, metavar="SEED", help="demo catalogues of selectors")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write table.md and picture.png there")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    file = ROOT / "bench" / "results" / f"targetmr-{Path(args.data).name}.json"
    kept = json.loads(file.read_text()) if file.is_file() else {"runs": []}
    wanted = []
    for model in args.models:
        for case, settings in cases_of(args).items():
            for seed in args.seeds:
                at = {"model": model, "case": case, "seed": seed, "settings": args.settings, "config": origin_of(model)}
                row = next((r for r in kept["runs"] if all(r[name] == value for name, value in at.items())), None)
                if row is None:
                    row = at | one_run(model, case, settings, seed, args)
                    kept["runs"].append(row)
                    file.write_text(json.dumps({**origin(), **kept}, indent=1) + "\n")
                wanted.append(row)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "table.md").write_text(table(wanted) + "\n")
        draw(wanted, args.out / "picture.png")
    print(json.dumps(wanted) if args.json else table(wanted))


if __name__ == "__main__":
    main()
