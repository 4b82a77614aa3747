"""Write the features that PTMRec has tuned in a run into the data's prepared folder, for any model and framework."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  mmfast features tuned runs/demo_freedom_ptmrec --out data/demo-tuned
  mmfast train model=mgcn data=data/demo-tuned
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mmfast features tuned`."""
    parser.epilog = EXAMPLES
    parser.add_argument("folder", metavar="RUN", help="folder of a finished run with framework=ptmrec")
    parser.add_argument("--out", metavar="FOLDER", help="write into this copy and leave the data as they are")


def run(args: argparse.Namespace) -> int:
    """Write the features; print what was written."""
    from mmfast.content.features import target_folder
    from mmfast.data.load import prepared_folder
    from mmfast.data.replace_features import replace_features
    from mmfast.features import feature_lines
    from mmfast.frameworks.ptmrec.export import tuned_features
    from mmfast.run import Run

    finished = Run.load(args.folder)
    features = tuned_features(finished)
    folder, _ = prepared_folder(finished.config.data)
    with target_folder(folder, args.out) as target:
        replace_features(target, features)
    changed = Path(args.out or folder)
    print("\n".join([f"{changed}:", *(line for modality in features for line in feature_lines(changed, modality))]))
    return 0
