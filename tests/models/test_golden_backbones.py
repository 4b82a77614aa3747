"""The multimodal backbones agree with the golden numbers: terms, gradients, scores and item graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from mmfast.models.base import Recommender
from mmfast.ops import use_backend
from mmfast.registry import MODELS
from tests.golden_case import GoldenCase, assert_close, assert_gradient_close, golden

MODALITIES = ("image", "text")
Named = Iterator[tuple[str, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]]  # name, parameter, its part


@dataclass
class Parity:
    """How one model's options, parameters, terms and random numbers are called in its golden file."""

    options: Callable[[dict], dict]
    parameters: Callable[[Recommender], Named]
    terms: Callable[[dict], dict[str, tuple[tuple[str, ...], float]]]
    fix: Callable[[Recommender, GoldenCase], None] = lambda model, case: None
    """Puts the recorded masks and noise in place of random ones."""


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def nodes(model: Recommender) -> Named:
    yield "user_embedding", model.nodes.weight, lambda t: t[: model.num_users]
    yield "item_embedding", model.nodes.weight, lambda t: t[model.num_users :]


def map_of(name: str, layer: nn.Linear) -> Named:
    yield f"{name}_weight", layer.weight, whole
    if layer.bias is not None:
        yield f"{name}_bias", layer.bias, whole


def content(model: Recommender, trainable: bool = True) -> Named:
    for modality in MODALITIES:
        if trainable:
            yield f"{modality}_features_trainable", model.sources[modality].weight, whole
        yield from map_of(f"{modality}_projection", model.projections[modality])


def query(name: str, module: nn.Module) -> Named:
    yield from map_of(f"{name}_hidden", module.hidden)
    yield from map_of(f"{name}_out", module.out)


def bm3(model: Recommender) -> Named:
    yield from nodes(model)
    yield from map_of("predictor", model.predictor)
    yield from content(model)


def fix_bm3(model: Recommender, case: GoldenCase) -> None:
    def target(name: str, online: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        mask = torch.from_numpy(case[f"mask/target_{name}"]).float()[rows]
        return online.detach() * mask / (1 - case.hyper["dropout"])

    model.target = target


def mgcn(model: Recommender) -> Named:
    yield from nodes(model)
    yield from content(model)
    yield from query("common_query", model.query)
    for modality in MODALITIES:
        yield from map_of(f"{modality}_gate", model.gates[modality])
        yield from map_of(f"{modality}_preference_gate", model.preference_gates[modality])


def smore(model: Recommender) -> Named:
    yield from nodes(model)
    yield from content(model)
    for modality in MODALITIES:
        yield from query(f"{modality}_query", model.queries[modality])
    for view, name in zip((*MODALITIES, "&"), (*MODALITIES, "fusion"), strict=True):
        yield f"{name}_spectral_weight", model.filters[view].weight, lambda t: t[None]
        yield from map_of(f"{name}_gate", model.gates[view])
        yield from map_of(f"{name}_preference_gate", model.preference_gates[view])


def fix_smore(model: Recommender, case: GoldenCase) -> None:
    views, rows_of_step = model.behaviour_and_side, []

    def behaviour_and_side(hide: frozenset[str], rows: tuple | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        rows_of_step[:] = [rows]
        return views(hide, rows)

    def preference(view: str, behaviour: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(model.preference_gates[view](behaviour))
        if not model.training:
            return gate
        mask = torch.from_numpy(case[f"mask/{'fusion' if view == '&' else view}_preference"]).float()
        users, items = rows_of_step[0]
        return gate * mask[torch.cat([users, items + model.num_users])] / (1 - case.hyper["dropout_rate"])

    model.behaviour_and_side, model.preference = behaviour_and_side, preference


def lattice(model: Recommender) -> Named:
    yield from nodes(model)
    yield from content(model)
    assert tuple(model.projections) == MODALITIES
    yield "modality_weight_logits", model.mixing, whole


def lgmrec(model: Recommender) -> Named:
    yield from nodes(model)
    for modality in MODALITIES:
        yield f"{modality}_projection_in_out", model.maps[modality].projection, whole
        yield f"{modality}_hyperedge_in_out", model.maps[modality].hyperedge, whole


def fix_lgmrec(model: Recommender, case: GoldenCase) -> None:
    model.noise = lambda name, logits: torch.from_numpy(case[f"gumbel_noise/{name}"]).float()

    def thin(name: str, incidence: torch.Tensor) -> torch.Tensor:
        if not model.training:
            return incidence
        return incidence * torch.from_numpy(case[f"mask/hyper_{name}"]).float() / case.hyper["keep_rate"]

    model.thin = thin


def lirdrec(model: Recommender) -> Named:
    yield "fusion_theta", model.theta, whole
    for block, name in zip(model.blocks, (*MODALITIES, "shared"), strict=True):
        yield f"{name}_user_preference", model.users[block].weight, whole
        if name == "shared":
            assert model.blocks[:-1] == MODALITIES  # the order of the shared columns
        yield from map_of(f"{name}_mlp1", model.first[block])
        yield from map_of(f"{name}_mlp2", model.second[block])
        yield from map_of(f"fusion_{name}_hidden", model.weights[block].hidden)
        yield from map_of(f"fusion_{name}_out", model.weights[block].out)


def mentor(model: Recommender) -> Named:
    yield "user_modality_weight", model.modality_weights, lambda t: t[..., None]
    yield "id_item_features", model.ids.weight, whole
    yield from map_of("mlp", model.mask_map)
    for key, encoder in model.encoders.items():
        name, _, view = key.partition("&")
        name = (name or "id") + (f"_view{view}" if view else "")
        yield f"{name}_user_preference", encoder.preference.weight, whole
        yield from map_of(f"{name}_mlp1", encoder.first)
        yield from map_of(f"{name}_mlp2", encoder.second)


def fix_mentor(model: Recommender, case: GoldenCase) -> None:
    def noise(name: str, hop: int, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(case[f"uniform_noise/{name}_hop{hop}"]).float()

    def dropped(name: str, table: torch.Tensor) -> torch.Tensor:
        return table * torch.from_numpy(case[f"mask/{name}_target"]).float() / (1 - case.hyper["dropout"])

    model.noise, model.dropped = noise, dropped


def mmgcn(model: Recommender) -> Named:
    yield "id_embedding", model.ids, whole
    for modality in MODALITIES:
        yield f"{modality}_user_preference", model.preferences[f"of_{modality}"], whole
        if modality in model.inputs:
            yield from map_of(f"{modality}_projection", model.inputs[modality])
        for number, layer in enumerate(model.layers[modality], 1):
            yield f"{modality}_conv{number}_weight_in_out", layer.conv.weight, torch.Tensor.t
            yield from map_of(f"{modality}_linear{number}", layer.hidden)
            yield from map_of(f"{modality}_combine{number}", layer.combine)


def grcn(model: Recommender) -> Named:
    assert tuple(model.projections) == MODALITIES  # the order of the confidence's columns
    yield "modality_confidence", model.confidence.weight, whole
    yield "id_embedding", model.nodes.weight, whole
    for modality in MODALITIES:
        yield f"{modality}_user_preference", model.preferences[modality].weight, whole
        yield from map_of(f"{modality}_projection", model.projections[modality])


def slmrec(model: Recommender) -> Named:
    yield from nodes(model)
    yield from content(model, trainable=False)
    yield from map_of("user_fusion", model.user_head)
    yield from map_of("item_fusion", model.item_head)
    yield from map_of("head_id", model.left["image"])
    yield from map_of("head_image", model.right["image"])
    yield from map_of("head_id_image", model.between["text"])
    yield from map_of("head_id_image_half", model.left["text"])
    yield from map_of("head_text_half", model.right["text"])


def contrastive(hyper: dict) -> dict:
    return {
        "bpr": (("bpr",), 1.0),
        "reg": (("l2_weighted",), 1.0),
        "cl_items": (("infonce_items_unweighted",), hyper["cl_loss"]),
        "cl_users": (("infonce_users_unweighted",), hyper["cl_loss"]),
    }


def ranking(*reg: str) -> Callable[[dict], dict]:
    return lambda hyper: {"bpr": (("bpr",), 1.0), "reg": (reg, hyper["reg_weight"])}


PARITY = {
    "bm3": Parity(
        lambda h: {"num_layers": h["n_layers"], "dropout": h["dropout"], "cl_weight": h["cl_weight"]},
        bm3,
        lambda h: {
            "rec": (("user_vs_item_target", "item_vs_user_target"), 1.0),
            "reg": (("embedding_norm_unweighted",), h["reg_weight"]),
            **{f"align_{m}": ((f"{m}_vs_item_target",), h["cl_weight"]) for m in MODALITIES},
            **{f"intra_{m}": ((f"{m}_vs_{m}_target",), h["cl_weight"]) for m in MODALITIES},
        },
        fix_bm3,
    ),
    "mgcn": Parity(
        lambda h: {
            "num_layers": h["n_ui_layers"],
            "num_item_layers": h["n_layers"],
            "k": h["knn_k"],
            "cl_weight": h["cl_loss"],
            "temperature": h["infonce_temperature"],
        },
        mgcn,
        contrastive,
    ),
    "smore": Parity(
        lambda h: {
            "num_layers": h["n_ui_layers"],
            "num_item_layers": h["n_layers"],
            "neighbours": {m: h[f"{m}_knn_k"] for m in MODALITIES},
            "cl_weight": h["cl_loss"],
            "temperature": h["infonce_temperature"],
            "dropout": h["dropout_rate"],
        },
        smore,
        contrastive,
        fix_smore,
    ),
    "lattice": Parity(
        lambda h: {
            "num_layers": h["n_ui_layers"],
            "num_item_layers": h["n_layers"],
            "k": h["knn_k"],
            "original_weight": h["lambda_coeff"],
        },
        lattice,
        lambda h: {"bpr": (("bpr",), 1.0), "reg": (("l2_weighted",), 1.0)},
    ),
    "lgmrec": Parity(
        lambda h: {
            "num_layers": h["n_ui_layers"],
            "num_modality_layers": h["n_mm_layers"],
            "num_hyper_layers": h["n_hyper_layer"],
            "num_hyperedges": h["hyper_num"],
            "keep_rate": h["keep_rate"],
            "alpha": h["alpha"],
            "cl_weight": h["cl_weight"],
            "temperature": h["tau"],
            "eval_noise": True,
        },
        lgmrec,
        lambda h: {
            **ranking("embedding_norm_unweighted")(h),
            "cl_users": (("hyper_contrast_users_unweighted",), h["cl_weight"]),
            "cl_items": (("hyper_contrast_items_unweighted",), h["cl_weight"]),
        },
        fix_lgmrec,
    ),
    "lirdrec": Parity(
        lambda h: {
            "num_layers": h["n_ui_layers"],
            "num_item_layers": h["n_mm_layers"],
            "k": h["knn_k"],
            "image_weight": h["mm_image_weight"],
            "tau": h["decay_weight"],
            "gamma": h["decay_base"],
        },
        lirdrec,
        ranking("reg_users_unweighted", "reg_items_unweighted"),
        lambda model, case: model.set_shares(case.hyper["epoch"]),
    ),
    "mentor": Parity(
        lambda h: {
            "num_item_layers": h["n_mm_layers"],
            "k": h["knn_k"],
            "image_weight": h["mm_image_weight"],
            "align_weight": h["align_weight"],
            "cl_weight": h["mask_weight_g"],
            "temperature": h["temp"],
            "masking_weight": h["mask_weight_f"],
            "dropout": h["dropout"],
            "masking": "constant",
        },
        mentor,
        lambda h: {
            "bpr": (("bpr_log2",), 1.0),
            "reg": (("reg_unweighted",), h["reg_weight"]),
            "align": (("align_unweighted",), h["align_weight"]),
            "cl": (("infonce_users_unweighted", "infonce_items_unweighted"), h["mask_weight_g"]),
            "masking": (("feature_mask_unweighted",), h["mask_weight_f"]),
        },
        fix_mentor,
    ),
    "mmgcn": Parity(
        lambda h: {"trainable_ids": True, "input_dims": {"image": h["image_latent"]}},
        mmgcn,
        ranking("reg_embedding_unweighted"),
    ),
    "grcn": Parity(
        lambda h: {"num_routing": h["n_routing"]},
        grcn,
        ranking("reg_embedding_unweighted", "reg_content_unweighted"),
    ),
    "slmrec": Parity(
        lambda h: {
            "num_layers": h["layer_num"],
            "temperature": h["temp"],
            "ssl_temperature": h["ssl_temp"],
            "ssl_weight": h["ssl_alpha"],
        },
        slmrec,
        lambda h: {"main": (("infonce_main",), 1.0), "ssl": (("ssl_unweighted",), h["ssl_alpha"])},
    ),
}


def build(name: str) -> tuple[GoldenCase, Parity, Recommender]:
    case, parity, entry = golden(name), PARITY[name], MODELS.get(name)
    options = {"name": name, "embedding_dim": case.hyper["embedding_size"], **parity.options(case.hyper)}
    if "reg_weight" in entry.Config.model_fields:
        options["reg_weight"] = case.hyper["reg_weight"]
    model = entry(entry.Config(**options), case.dataset(), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for key, parameter, part in parity.parameters(model):
            part(parameter.data).copy_(case.parameter(key))
    parity.fix(model, case)
    return case, parity, model


def gradient(parameter: torch.Tensor) -> torch.Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", PARITY)
def test_loss_terms_and_gradients(name, backend):
    case, parity, model = build(name)
    with use_backend(backend):
        terms = model.loss(case.batch())
        total = sum(terms.values())
        total.backward()
    wanted = parity.terms(case.hyper)
    assert set(terms) == set(wanted)
    for term, (theirs, weight) in wanted.items():
        assert_close(terms[term], weight * sum(case[f"loss_term/{name}"] for name in theirs), term)
    assert_close(total, case["loss_total"], "loss")
    parameters = list(parity.parameters(model))
    without = case.hyper["params_without_gradient"]
    largest = max(abs(case[f"grad/{key}"]).max() for key, _, _ in parameters if key not in without)
    for key, parameter, part in parameters:
        if key in without:
            assert not gradient(parameter).any()
        else:
            assert_gradient_close(part(gradient(parameter)), case[f"grad/{key}"], largest, key, 1e-4)
    covered = {key for key, _, _ in parameters} | set(without)
    assert covered >= {key.removeprefix("param/") for key in case.arrays if key.startswith("param/")}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", PARITY)
def test_scores(name, backend):
    case, _, model = build(name)
    model.eval()
    with torch.no_grad(), use_backend(backend):
        users, items = model.embed()
    scores = users @ items.t()
    assert_close(torch.sigmoid(scores) if name == "slmrec" else scores, case["scores"], "scores")
