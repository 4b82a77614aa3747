"""CKD: uni-modal teachers distilled into a multimodal student (Zhang et al., "Modality-Balanced Learning", MM 2024).

Losses are means where the paper writes sums, as in the released code. `weights=paper` is Eq. 15-18 with bounds;
`weights=code` is the released reading, per triple and against the student's own margins, for two modalities.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from mmfast.config import FrameworkConfig
from mmfast.errors import MmfastError
from mmfast.frameworks.base import Fit, Framework
from mmfast.frameworks.masked import Masked
from mmfast.ops import batch_count, batch_rows, ckd_loss, sample_triples, triple_margins
from mmfast.registry import FRAMEWORKS
from mmfast.seeds import derive_seed

if TYPE_CHECKING:
    from mmfast.data.dataset import Dataset
    from mmfast.data.sampler import Batch
    from mmfast.models.base import Recommender
    from mmfast.models.features import FeatureSource

ROWS_AT_ONCE = 4096
Tables = tuple[torch.Tensor, torch.Tensor]


@FRAMEWORKS.register("ckd")
class CKD(Framework):
    """loss + distillation_weight * sum_m w_m (SD_m + generic_weight GD_m), w_m larger for neglected modalities."""

    class Config(FrameworkConfig):
        """Options of CKD. The released code trains with `train.sampler=users train.batch_size=1024`, rate 5e-4."""

        teachers: dict[str, str] = Field({})
        """Run folder of a modality's teacher, trained with framework masked; those not named are trained first."""
        distillation_weight: float = Field(0.01, ge=0)
        """lambda_kd; the grid is 1e-3, 1e-2, 1e-1, 5e-1."""
        generic_weight: float = Field(5.0, ge=0)
        """lambda_g, the weight of the generic distillation; the grid is 0.1, 0.5, 1, 5; 0 leaves it out (w/o Gen.)."""
        temperature: float = Field(0.1, gt=0)
        """tau of the generic distillation."""
        universal_size: int = Field(5000, ge=1)
        """Universal triples (user, item, item) of a step, for the generic distillation."""
        universal_items: int | None = Field(None, ge=1)
        """Items drawn a step, of which its universal triples take theirs; None: of all. Fewer rows are projected."""
        specific: Literal["hinge", "cross_entropy", "square"] = "hinge"
        """Specific distillation: hinge (the paper), or its ablations KL-divergence and MSE."""
        weights: Literal["paper", "code", "uniform", "ones"] = "paper"
        """paper or code: see above; uniform and ones: no re-weighting, in the scale of paper and of code."""
        eps: float = Field(0.0, ge=0)
        """Added inside the logarithms of the generic distillation (released code: 1e-8); 0 is the stable form."""

    doors = ("loss",)
    over_ranks = True

    def __init__(self, inner: Recommender | Framework, config: Config | None = None) -> None:
        super().__init__(inner, config)
        self.check_modalities()
        modalities = self.modalities
        if self.config.weights == "code" and len(modalities) != 2:
            raise MmfastError(
                f"ckd: weights=code is defined for 2 modalities, and there are {len(modalities)} "
                f"({', '.join(modalities)}); choose weights=paper, or two of them with data.features"
            )
        if unknown := [m for m in self.config.teachers if m not in modalities]:
            raise MmfastError(f"ckd.teachers: no modality is called '{unknown[0]}'; there are {', '.join(modalities)}")
        self.kept = [frozenset(modalities) - {m} for m in modalities]  # hidden where one modality is kept alone
        # With two modalities, hiding one is keeping the other.
        self.hides = [frozenset(), *self.kept, *(frozenset({m}) for m in modalities if len(modalities) > 2)]
        self.teachers: list[Tables] = []

    @property
    def uses_negatives(self) -> bool:
        """Always: the distillation compares pairs, whatever the model's loss does."""
        return True

    def prepare(self, fit: Fit) -> None:
        """Train or load the teachers and keep their final tables; they are eval mode's, and never change."""
        super().prepare(fit)
        self.say = fit.say
        for modality in self.modalities:
            if constant(self.model.sources[modality], fit.device):
                fit.say(
                    f"note: every item has the same '{modality}' features, so its teacher knows users and items alone"
                )
        self.teachers = [self.teacher(modality, fit) for modality in self.modalities]
        ptr, _ = fit.dataset.train.by_user(fit.dataset.num_users)
        self.active_users = torch.tensor(ptr).diff().nonzero()[:, 0]
        self.warned: set[str] = set()

    def teacher(self, modality: str, fit: Fit) -> Tables:
        """Return the final tables (users [U, W], items [I, W]) of a modality's teacher, constant columns left out."""
        from mmfast.run import Run

        folder = self.config.teachers.get(modality)
        if folder is not None:
            check_teacher(Path(folder), modality, self.model.modalities, fit.dataset)
            model = Run.load(folder, fit.dataset, str(fit.device)).model
        else:
            inside = fit.config.framework[: [section.name for section in fit.config.framework].index("ckd")]
            hide = tuple(m for m in self.model.modalities if m != modality)
            changes = {
                "framework": (*(s for s in inside if s.name != "masked"), Masked.Config(name="masked", hide=hide)),
                "seed": derive_seed(fit.config.seed, "teacher", modality),
            }
            model = fit.train(fit.config.model_copy(update=changes), f"teacher-{modality}", False).model
        model.eval()
        with torch.no_grad():
            users, items = model.embed()
        # A column that is the same for all items drops out of every difference of scores.
        differs = (items != items[:1]).any(0)
        differs[0] = True
        return users[:, differs].contiguous(), items[:, differs].contiguous()

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Start the epoch's stream of universal triples."""
        super().on_epoch_start(epoch, generator)
        self.seed, self.steps = int(torch.randint(2**62, (1,), generator=generator)), 0
        self.weight_sum = self.weak_sum = 0

    def universal_triples(self, num_items: int) -> torch.Tensor:
        """Return the step's universal triples (user, item, item), int64 [3, G]; items may be any, also the user's."""
        count = self.config.universal_size if self.config.generic_weight else 1
        pool = self.config.universal_items
        triples = sample_triples(self.active_users, pool or num_items, count, 1, self.seed, self.steps)
        if pool:
            drawn = sample_triples(self.active_users[:1], num_items, pool, 1, self.seed, 2**62 + self.steps)[1]
            triples[1:] = drawn[triples[1:]]
        self.steps += 1
        return triples

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the terms of what is inside and `distillation` (Eq. 19)."""
        count, size = len(self.kept), batch.size
        batch = replace(batch, others=self.universal_triples(batch.num_items).to(batch.users.device))
        with self.model.sharing(self.hides):
            terms = self.inner_loss(batch)
            margins = self.model.margins(batch, self.hides)
        with torch.no_grad():
            teacher = torch.stack([triple_margins(*tables, *batch.triples) for tables in self.teachers])
        margins, teacher = of_whole_batch(margins, size), of_whole_batch(teacher, size)
        size = batch_count(size)
        student = margins[1 : 1 + count]
        distillation, weights = ckd_loss(
            margins[0, :size],
            student[:, :size].contiguous(),
            teacher[:, :size].contiguous(),
            student[:, size:].contiguous(),
            teacher[:, size:].contiguous(),
            margins[1 + count :, :size].contiguous() if count > 2 else None,
            **self.config.model_dump(include={"generic_weight", "temperature", "specific", "weights", "eps"}),
        )
        self.weight_sum = self.weight_sum + weights.detach()
        self.weak_sum = self.weak_sum + (teacher[:, :size].mean(1) <= 0)
        return {**terms, "distillation": self.config.distillation_weight * distillation}

    def measures(self) -> dict[str, float]:
        """Return the mean weight of each modality, and the share of batches on which its teacher was weak."""
        found = super().measures()
        for number, modality in enumerate(self.modalities if self.steps else ()):
            weak = float(self.weak_sum[number]) / self.steps
            found |= {f"weight_{modality}": float(self.weight_sum[number]) / self.steps, f"weak_{modality}": weak}
            if weak > 0.5 and modality not in self.warned:
                self.warned.add(modality)
                self.say(
                    f"note: the '{modality}' teacher ranks {weak:.0%} of the batches no better than at random, so its "
                    "weight is small; train it longer, or give another with framework.teachers"
                )
        return found


def of_whole_batch(margins: torch.Tensor, size: int) -> torch.Tensor:
    """Return margins [H, size + G] with those of every rank's entries in place of this rank's `size`: [H, B + G]."""
    own = batch_rows(margins[:, :size].T)
    return margins if len(own) == size else torch.cat([own.T, margins[:, size:]], dim=1)


@torch.no_grad()
def constant(features: FeatureSource, device: torch.device) -> bool:
    """Whether all items have the same features, which lie on `device`."""
    items = torch.arange(features.num_items, device=device)
    first = features.rows(items[:1])
    return all(bool((features.rows(part) == first).all()) for part in items.split(ROWS_AT_ONCE))


def check_teacher(folder: Path, modality: str, modalities: tuple[str, ...], dataset: Dataset) -> None:
    """Raise MmfastError unless the run in `folder` saw this data set and `modality` alone of the modalities."""
    from mmfast.checkpoint import load_checkpoint
    from mmfast.config import load_config
    from mmfast.run import BEST, check_run_folder

    made = load_checkpoint(check_run_folder(folder) / BEST).meta
    if made.get("fingerprint") != dataset.fingerprint:
        raise MmfastError(
            f"ckd.teachers.{modality}: '{folder}' was trained on '{made.get('dataset')}' of {made.get('num_users')} "
            f"users x {made.get('num_items')} items (fingerprint {str(made.get('fingerprint'))[:12]}); this run has "
            f"'{dataset.name}' of {dataset.num_users} x {dataset.num_items} ({dataset.fingerprint[:12]}); "
            "train the teacher on the same data, split and features"
        )
    sections = load_config(folder / "config.yaml").framework
    hidden = {m for section in sections for m in getattr(section, "hide", ())}
    wanted = set(modalities) - {modality}
    if hidden != wanted:
        raise MmfastError(
            f"ckd.teachers.{modality}: '{folder}' was trained with {', '.join(sorted(hidden)) or 'nothing'} hidden; a "
            f"teacher of '{modality}' has {', '.join(sorted(wanted))} hidden: train it with framework.name=masked "
            f"'framework.hide=[{', '.join(sorted(wanted))}]'"
        )
