"""How a task begins: what of an encoder it takes, and what it refuses."""

from typing import Any
from unittest import mock

from golden.rest import Note, area, digest
from golden.rest_config import BASE, M, put
from golden.rest_engine import given

from mae_ext.config import parse_config
from mae_ext.engine import start_config as finetune
from mae_ext.model.position import Learned


@area()
def beginning(note: Note) -> None:
    from golden.rest_records import saved

    run = given(
        {
            M + "data.statistics": {"mean": [0.5] * 3, "std": [0.25] * 3},
            M + "data.reader": {"name": "image", "max_pixels": 999},
            M + "data.augment": {"scale": [0.3, 0.9], "flip": [0]},
            M + "mask": {"name": "random", "ratio": 0.5},
        }
    )
    (path,) = saved(run, "run/checkpoints", (5,))
    plain: dict[str, Any] = {"task": {"name": "classify"}, "modalities": {"image": {"batch": 2}}, "train": {"steps": 2}}
    tried: dict[str, Any] = {
        "model.width": [12, 24, None],
        "model.depth": [2, 3],
        "model.heads": [2, 3],
        "model.size": ["tiny"],
        "model.mlp_ratio": [4.0, 2.0],
        "model.class_token": [True, False],
        "model.norm_eps": [1e-6, 1e-5],
        "model.drop_path": [0.2],
        "model.decoder": [{"width": 24}],
        M + "patch": [[4, 4], [2, 2], (4, 4)],
        M + "channels": [3, 1],
        M + "embed": ["patch", "x"],
        M + "position": ["sincos", "learned"],
        M + "size": [[8, 8], [16, 8], [9, 8]],
        M + "mask": ["block"],
        M + "target": [{"normalize": "none"}],
        M + "data.statistics": [
            "measured",
            "imagenet",
            {"mean": [0.5] * 3, "std": [0.25] * 3},
            {"mean": [0.4] * 3, "std": [0.25] * 3},
        ],
        M + "data.reader": [
            "image",
            "video",
            {"max_pixels": 5},
            {"name": "image", "max_pixels": 5},
            {"name": "image", "x": 5},
        ],
        M + "data.augment": [{}, {"scale": [0.5, 1.0]}, {"flip": []}, "x"],
        M + "data.repeats": [2],
        M + "data.max_bad_fraction": [0.5],
        M + "weight": [2.0],
        "modalities": [{}, {"imag": {"batch": 2}}, {"image": {"batch": 2}, "b": {}}, {"image": 3}],
        "model": [None, 3],
        "seed": [4],
        "init": ["else"],
    }
    for key, values in tried.items():
        for value in values:

            def begun(key: str = key, value: Any = value) -> Any:
                found = finetune.with_start(put(plain, key, value), "here", "run").model_dump(mode="json")
                base = finetune.with_start(plain, "here", "run").model_dump(mode="json")
                flat_found, flat_base = (str_items(v) for v in (found, base))
                return {k: v for k, v in flat_found.items() if flat_base.get(k) != v and k != "init"}

            note(f"{key}={value}", begun)
    note(
        "plain",
        lambda: digest(
            {
                k: v
                for k, v in str_items(finetune.with_start(plain, "here", "run").model_dump(mode="json")).items()
                if k != "init"
            }
        ),
    )
    note("from scratch", lambda: finetune.with_start({**BASE, "init": "x"}, "here", "none").init)
    note(
        "no task",
        [
            lambda: finetune.check_task({}, "here"),
            lambda: finetune.check_task({"task": "classify"}, "here"),
        ],
    )
    from mae_ext.model.mae import MAE
    from mae_ext.tasks.backbone import load_backbone

    for changes in ({}, {M + "position": "learned"}, {"model.width": 24}, {"model.depth": 1}, {M + "size": [16, 8]}):

        def loaded(changes: Any = changes) -> Any:
            config = given(changes).model_copy(update={"init": str(path)})
            model = MAE(config, decodes=False)
            load_backbone(model, config)
            return [float(v.norm()) for v in model.state_dict().values()]

        note(f"backbone {changes}", loaded)
    learned = given({M + "position": "learned"})
    (placed,) = saved(learned, "learned/checkpoints", (1,))
    sized: dict[str, Any] = {"task": {"name": "classify"}, "modalities": {"image": {"batch": 2}}, "train": {"steps": 2}}
    for any_size in (True, False):
        for size in ([8, 8], [16, 8]):
            with mock.patch.object(Learned, "any_size", any_size):
                note(
                    f"positions of one grid {not any_size} at {size}",
                    lambda size=size: (
                        finetune.with_start(put(sized, M + "size", size), "here", "learned").modalities["image"].size
                    ),
                )
    for size in ([8, 8], [16, 8], [12, 12]):

        def fitted(size: Any = size) -> Any:
            config = given({M + "position": "learned", M + "size": size}).model_copy(update={"init": str(placed)})
            model = MAE(config, decodes=False)
            load_backbone(model, config)
            return model.state_dict()["modalities.image.position.table"]

        note(f"backbone learned {size}", fitted)
    note("parse", lambda: parse_config(BASE).init)


def str_items(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, dict) and values:
        return {k: v for key, value in values.items() for k, v in str_items(value, f"{prefix}{key}.").items()}
    return {prefix: str(values)}
