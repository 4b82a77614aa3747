"""What the stages of `mmfast targetmr` share: data, settings, and the objects and labels that they start from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from mmfast.content.label import Labels
    from mmfast.frameworks.targetmr.catalogue import Catalogue, Found
    from mmfast.frameworks.targetmr.objects import ItemObjects
    from mmfast.frameworks.targetmr.settings import TargetMRConfig
    from mmfast.frameworks.targetmr.stages import Selectors


def add_stage_arguments(parser: argparse.ArgumentParser, examples: str, data: bool = True) -> None:
    """Declare data, `key=value` settings and where things lie; the help lists every setting."""
    from mmfast.commands.train import settings_table
    from mmfast.frameworks.targetmr.settings import TargetMRConfig

    told = settings_table(TargetMRConfig, leave_out=("name",))
    parser.epilog = f"{examples}\nsettings (the same as below `framework:` in a YAML file):\n{told}"
    if data:
        parser.add_argument("data", help="demo, a data set's name, or a prepared or plain folder")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the stages")
    parser.add_argument("--root", help="folder that holds the data sets (MMFAST_DATA, else ./data)")
    parser.add_argument("--seed", type=int, default=999, help="seed of the selectors (999)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def settings_of(args: argparse.Namespace) -> TargetMRConfig:
    """Return the settings of the command line. Raises MmfastError that lists all mistakes at once."""
    from mmfast.config import load_section
    from mmfast.frameworks.targetmr.settings import TargetMRConfig

    return load_section(TargetMRConfig, args.settings)


def catalogue_of(name: str, args: argparse.Namespace) -> Catalogue:
    """Return the catalogue of a data set by name."""
    from mmfast.data.load import prepared_folder
    from mmfast.frameworks.targetmr.catalogue import Catalogue

    folder, source = prepared_folder(name, root=args.root)
    return Catalogue.of_folder(folder, source, args.device, not args.quiet)


def found_lines(found: Found, objects: ItemObjects) -> list[str]:
    """Return how texts and photos gave objects, and how many there are."""
    from mmfast.commands.features_data import count_line

    lines = []
    if found.texts is not None:
        lines.append(count_line("texts", found.texts.counts()))
    if found.masks is not None:
        lines.append(count_line("photos", found.masks.counts()))
    items = max(1, len(objects))
    for what, table in (("text", objects.text.words), ("image", objects.image.values)):
        lines.append(f"{what} objects: {len(table):,}, {len(table) / items:.2f} per item, of width {objects.dim}")
    neither = int((~objects.has_text & ~objects.has_photo).sum())
    return [*lines, f"items with neither text nor photo: {neither:,}"] if neither else lines


def label_lines(labels: Labels) -> list[str]:
    """Return how labels came about, of which texts a model saw a part, and how often it answered with a candidate."""
    from mmfast.commands.features_data import count_line, cut_lines

    lines = [count_line("labels", labels.counts()), *cut_lines(labels)]
    if labels.in_scope is not None:
        lines.append(f"answers that name a candidate exactly: {labels.in_scope:.1%}")
    return lines


def label_tensor(labels: Labels) -> torch.Tensor:
    """Return targets as int64 [I], -1 without a label."""
    import torch

    return torch.from_numpy(labels.targets).long()


def score_lines(
    catalogue: Catalogue, found: Found, objects: ItemObjects, selectors: Selectors, settings: TargetMRConfig
) -> list[str]:
    """Return held-out scores of the selectors and, for a demo catalogue, how often they find the recorded target."""
    from mmfast.frameworks.targetmr.stages import choose_targets
    from mmfast.frameworks.targetmr.truth import truth_scores

    lines = []
    if selectors.accuracy:
        lines.append(
            f"text targets: {max(selectors.accuracy):.1%} of held-out labels after {len(selectors.accuracy) - 1} epochs"
        )
    if selectors.loss:
        first, best, epochs = selectors.loss[0], min(selectors.loss), len(selectors.loss) - 1
        lines.append(f"refinement: held-out loss {first:.4f} -> {best:.4f} after {epochs} epochs")
    scores = truth_scores(catalogue, found, choose_targets(objects, selectors, settings))
    return [*lines, *(f"truth, {name.replace('_', ' ')}: {share:.1%}" for name, share in scores.items())]


def add_selector_arguments(parser: argparse.ArgumentParser, examples: str) -> None:
    """Declare the arguments of a stage that trains selectors."""
    add_stage_arguments(parser, examples)
    parser.add_argument("--out", metavar="FILE", help="write the selectors, for framework.selectors=FILE")


def run_selectors(args: argparse.Namespace, settings: TargetMRConfig) -> int:
    """Train what the store does not have, print the scores and write the selectors where they are asked for."""
    selectors, lines = selectors_of(args, settings)
    print("\n".join(lines))
    if args.out:
        selectors.save(args.out)
        print(f"written: {args.out}")
    return 0


def selectors_of(args: argparse.Namespace, settings: TargetMRConfig) -> tuple[Selectors, list[str]]:
    """Return the selectors of one catalogue, trained or from the store, and what to tell of them."""
    from mmfast.device import resolve_device
    from mmfast.frameworks.targetmr.stages import train_selectors

    catalogue = catalogue_of(args.data, args)
    found = catalogue.find(settings.objects, settings.object_rule)
    objects = catalogue.encode(settings.objects, found)
    lines, labels = found_lines(found, objects), None
    if found.texts is not None:
        named = catalogue.label(settings.labels, found.texts)
        labels, lines = label_tensor(named), [*lines, *label_lines(named)]
    selectors = train_selectors(objects, labels, settings, args.seed, resolve_device(args.device))
    return selectors, [*lines, *score_lines(catalogue, found, objects, selectors, settings)]
