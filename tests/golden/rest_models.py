"""Whole models of many settings: losses, tokens and pictures."""

# ruff: noqa: BLE001, PLW2901
from typing import Any

import torch
from golden.rest import Note, area, digest
from golden.rest_model import CLIP, IMAGE, config_of, generator, numbers

from mae_ext.model.mae import MAE
from mae_ext.model.transformer import drop_path_gates

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"modalities": {"image": IMAGE}},
    "no class token": {
        "modalities": {"image": {**IMAGE, "mask": {"name": "random", "ratio": 0.5}}},
        "class_token": False,
    },
    "uniform": {"modalities": {"image": IMAGE}, "train": {"uniformity": 0.5}},
    "channel targets": {
        "modalities": {"image": {**IMAGE, "target": {"name": "pixel", "normalize": "channel", "floor": 0.5}}}
    },
    "l1 pixels": {"modalities": {"image": {**IMAGE, "target": {"name": "pixel", "normalize": "none", "loss": "l1"}}}},
    "statistics": {"modalities": {"image": {**IMAGE, "data": {"statistics": {"mean": [0.5, 0.2], "std": [0.3, 2.0]}}}}},
    "one statistic": {"modalities": {"image": {**IMAGE, "data": {"statistics": {"mean": [0.5], "std": [0.3]}}}}},
    "three statistics": {
        "modalities": {"image": {**IMAGE, "data": {"statistics": {"mean": [0.5] * 3, "std": [0.3] * 3}}}}
    },
    "learned": {"modalities": {"image": {**IMAGE, "position": "learned"}}, "mlp_ratio": 2.0, "norm_eps": 1e-2},
    "clip": {
        "modalities": {
            "video": {
                **CLIP,
                "mask": {"name": "tube", "ratio": 0.5},
                "decode": {"name": "running_cell", "ratio": 0.5},
                "position": {"name": "sincos", "unit": 3.0},
            }
        }
    },
    "both": {"modalities": {"image": {**IMAGE, "weight": 2.0}, "video": CLIP}},
}


@area()
def models(note: Note) -> None:
    for told, spec in MODELS.items():
        spec = dict(spec)
        try:
            model = MAE.from_config(config_of(spec.pop("modalities"), spec.pop("train", None), **spec))
        except Exception as error:
            note(told, str(error))
            continue
        state = model.state_dict()
        note(f"{told} names", digest({n: list(v.shape) for n, v in state.items()}))
        note(f"{told} norms", [float(v.float().norm()) for v in state.values()])
        for name in model.modalities:
            modality = model.modality(name)
            size = modality.size
            x = numbers(3, modality.channels, *size, seed=7)
            eight = (torch.arange(x.numel()).view(x.shape) * 37 % 256).to(torch.uint8)
            spacing = numbers(3, len(size)).abs() + 0.5
            mask = modality.draw_mask([generator(i) for i in range(3)])
            valid = torch.arange(x[:, :1].numel()).view(3, 1, *size) % 5 > 1
            valid[1] = False
            gates = drop_path_gates(0.5, 2, 3, generator(2))
            files = torch.tensor([0, 0, 1])
            where = f"{told} {name}"
            note(f"{where} mask", digest(mask))
            for kind, more in (
                ("", {}),
                ("valid", {"valid": valid}),
                ("gates", {}),
                ("files", {"files": files}),
            ):
                model.encoder.gates = gates if kind == "gates" else None
                note(
                    f"{where} loss {kind}",
                    lambda n=name, x=x, mask=mask, more=more, model=model, spacing=spacing: model(
                        x, mask, n, spacing=spacing, **more
                    ),
                )
            note(
                f"{where} loss eight",
                lambda n=name, x=eight, mask=mask, model=model, spacing=spacing: model(x, mask, n, spacing=spacing),
            )
            note(f"{where} loss without spacing", lambda n=name, x=x, mask=mask, model=model: model(x, mask, n))
            note(f"{where} normalize", [modality.normalize(eight), modality.denormalize(x), modality.step(spacing)])
            for pool in ("mean", "class"):
                note(
                    f"{where} features {pool}",
                    lambda n=name, x=x, pool=pool, model=model, spacing=spacing: model.features(x, n, spacing, pool),
                )
            note(
                f"{where} layers",
                lambda n=name, x=x, model=model, spacing=spacing: model.encode_layers(x, [1], n, spacing),
            )
            note(f"{where} encode", lambda n=name, x=x, model=model, spacing=spacing: model.encode(x, n, spacing))
            for own in (False, True):
                note(
                    f"{where} reconstruct {own}",
                    lambda n=name, x=x, mask=mask, model=model, spacing=spacing, own=own: model.reconstruct(
                        x, mask, n, spacing, own
                    ),
                )
            note(
                f"{where} reconstruct valid",
                lambda n=name, x=x, mask=mask, model=model, spacing=spacing, v=valid: model.reconstruct(
                    x, mask, n, spacing, False, v
                ),
            )
            bigger = tuple(s + q for s, q in zip(size, modality.patch, strict=True))
            other = numbers(3, modality.channels, *bigger)
            note(
                f"{where} other size", lambda n=name, x=other, model=model, spacing=spacing: model.encode(x, n, spacing)
            )
            note(f"{where} other size mask", lambda n=name, x=other, mask=mask, model=model: model(x, mask, n))
            note(
                f"{where} other channels",
                lambda n=name, x=x, model=model: model.encode(x[:, :1].expand(-1, 5, *[-1] * (x.ndim - 2)), n),
            )
            note(f"{where} odd size", lambda n=name, x=other, model=model: model.encode(x[..., 1:], n))
            loss = model(x, mask, name, spacing=spacing)
            note(
                f"{where} gradients",
                [
                    float(0 if v is None else v.norm())
                    for v in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
                ],
            )
        note(f"{told} unnamed", lambda model=model: model.modality().name)
    fine = {**IMAGE, "data": {"statistics": {"mean": [70000.3, 0.1234567], "std": [3e-6, 90000.7]}}}
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        kept_ = MAE.from_config(config_of({"image": fine})).to(dtype).modality()
        note(
            f"statistics in {dtype}",
            [str(kept_.mean.dtype), kept_.mean, str(kept_.std.dtype), kept_.std, str(kept_.like.dtype)],
        )
    model = MAE(config_of({"image": IMAGE}), decodes=False)
    note("without decoder", sorted(model.state_dict()))
    x = numbers(2, 2, 8, 12)
    note("without decoder answers", lambda: model(x, model.modality().draw_mask([generator(1), generator(2)])))
