"""What `plan` prints is what the model is: counted against the model itself and against PyTorch's own counter."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae_ext.config import parse_config
from mae_ext.engine.estimate import activation_bytes, describe, modality_estimates
from mae_ext.model.mae import MAE

IMAGE = {"size": [32, 48], "patch": [8, 8], "batch": 8}
CLIP = {"size": [4, 32, 16], "patch": [2, 8, 8], "batch": 4, "decode": {"name": "random", "ratio": 0.5}}


def config(train=None, class_token=True, **modalities):
    model = {"width": 24, "depth": 3, "heads": 2, "class_token": class_token}
    return parse_config(
        {
            "modalities": modalities,
            "model": model | {"decoder": {"width": 16, "depth": 2, "heads": 2}},
            "train": {"steps": 100, "precision": "fp32"} | (train or {}),
        }
    )


@pytest.mark.parametrize("class_token", [True, False, 4])
@pytest.mark.parametrize("modality", [IMAGE, CLIP], ids=["image", "clip"])
def test_flops_are_those_that_pytorch_counts(modality, class_token, monkeypatch):
    # The counter knows the ordinary products, not oneDNN's; the arithmetic is the same.
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    settings = config(class_token=class_token, any=modality)
    model = MAE(settings)
    (row,) = modality_estimates(settings, model)
    any_ = model.modality()
    x, mask = torch.rand(1, 3, *any_.size), any_.draw_mask([torch.Generator().manual_seed(0)])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(x, mask)
    assert row.flops / 3 == counter.get_total_flops()
    assert (row.tokens, row.kept, row.decoded) == (
        24 if modality is IMAGE else 16,
        *(m.shape[1] for m in (mask.keep, mask.pred)),
    )


def test_the_text_names_parameters_tokens_batch_rate_and_steps():
    settings = config({"steps": None, "epochs": 5, "warmup_epochs": 1, "accumulate": 2}, image=IMAGE, clip=CLIP)
    total = sum(p.numel() for p in MAE(settings).parameters())
    text = describe(settings, {"image": 80, "clip": 10}, world=2)
    for expected in (
        f"{total:,}",
        "tokens          24 (grid 4 x 6), 6 kept, 18 decoded",
        "16 (grid 2 x 4 x 2), 4 kept, 6 decoded",
        "12 samples a step",
        "2 ranks x 2",
        "7.03e-06 at its peak (0.00015 x 12 / 256)",
        "50 (10 of warm-up) for 80 files of image",
    ):
        assert expected in text, text


def test_the_parts_of_a_micro_batch_and_the_shares_of_fsdp_are_planned_for():
    def lines(world=2, **train):
        return describe(config(train, image=IMAGE), {}, world).splitlines()

    assert lines(micro_batch=2) == lines(accumulate=2)
    states = {
        way: float(next(line for line in lines(parallel=way, world=1000) if "memory" in line).split()[4])
        for way in ("ddp", "fsdp")
    }
    assert states["fsdp"] <= states["ddp"] / 2


def test_a_ratio_that_whole_groups_cannot_meet_is_said():
    tubes = config(clip=CLIP | {"size": [4, 56, 56], "mask": {"name": "tube", "ratio": 0.9}})
    assert "98 (grid 2 x 7 x 7), 10 kept, 44 decoded; 0.898 hidden, 0.9 asked" in describe(tubes, {})
    assert "asked" not in describe(config(image=IMAGE), {})


def test_without_files_the_steps_are_said_as_far_as_they_are_known():
    assert "100" in describe(config(image=IMAGE), {}).splitlines()[-1]
    assert "5 epochs; give --data to count the files" in describe(config({"steps": None, "epochs": 5}, image=IMAGE), {})


def test_activations_shrink_with_ranks_accumulation_precision_checkpointing_and_masking():
    def of(world=1, modality=IMAGE, **train):
        settings = config(train, image=modality)
        return activation_bytes(settings, modality_estimates(settings, MAE(settings)), world)

    whole = of()
    assert of(world=2) == of(accumulate=2) == whole / 2
    assert of(precision="bf16") < whole and of(checkpointing=True) < whole / 4
    assert of(checkpointing="selective") == whole * 10 / 16
    assert of(modality=IMAGE | {"decode": {"name": "random", "ratio": 0.5}}) < whole
