"""Commands that train, or say what training costs: pretrain, finetune, plan, replay."""

from pathlib import Path
from typing import Annotated

import typer

from mae_ext.cli.app import WHAT, AllowOption, ConfigArg, DataOption, SetOption, StepsOption, TestOption, app
from mae_ext.cli.choosing import chosen
from mae_ext.config import load_values
from mae_ext.errors import UserError
from mae_ext.overrides import configured
from mae_ext.strict_json import dumps


@app.command()
def pretrain(
    config: ConfigArg = None,
    data: DataOption = None,
    test: TestOption = None,
    out: Annotated[str, typer.Option("--out", help="Run directory; a run in it goes on by itself.")] = "runs/latest",
    steps: StepsOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = False,
    init: Annotated[str | None, typer.Option("--init", help=f"Go on from {WHAT}. 'none': from nothing.")] = None,
) -> None:
    """Train; resumes by itself when --out holds a checkpoint of the same config. Losses on --test go to
    OUT/evaluations.jsonl.

    Example: mae-ext pretrain image_folder --data photos/ --out runs/photos; from weights: --init mae_vit_base.pth;
    without CONFIG, the recipe for a folder of what --data holds: images, films or scans.
    """
    from mae_ext.engine.start_config import with_start
    from mae_ext.engine.train import train

    config = chosen("pretrain", config, data)
    loaded = configured(with_start(*load_values(config, list(set_ or [])), init, out), data, None, steps, test)
    if loaded.task.name != "pretrain":
        raise UserError(f"{config}: is of the task '{loaded.task.name}'; run it with `mae-ext finetune`")
    train(loaded, Path(out), allow_change)


@app.command()
def finetune(
    config: ConfigArg = None,
    init: Annotated[
        str | None, typer.Option("--init", help=f"The pretrained encoder: {WHAT}. 'none' starts from nothing.")
    ] = None,
    data: DataOption = None,
    test: TestOption = None,
    out: Annotated[str, typer.Option("--out", help="Run directory; a run in it goes on by itself.")] = "runs/finetuned",
    steps: StepsOption = None,
    set_: SetOption = None,
    allow_change: AllowOption = False,
) -> None:
    """Train a pretrained encoder for a task; resumes as pretrain does. Scores go to OUT/evaluations.jsonl.

    Example: mae-ext finetune finetune_cifar10_vitt --init runs/cifar10 --data train --test test --out runs/ft
    """
    from mae_ext.engine.start_config import check_task, with_start
    from mae_ext.engine.train import train

    values, where = load_values(chosen("finetune", config, data, tuning=True), list(set_ or []))
    if init is None and not values.get("init"):
        raise UserError(f"{where}: what does it start from? Give --init WHAT (a run, or weights), or --init none")
    check_task(values, where)
    loaded = with_start(values, where, init, out)
    train(configured(loaded, data, None, steps, test), Path(out), allow_change)


@app.command()
def plan(
    config: ConfigArg = None,
    data: DataOption = None,
    set_: SetOption = None,
    world: Annotated[int, typer.Option("--world", min=1, help="Ranks to plan for.")] = 1,
) -> None:
    """Print tokens, parameters, FLOPs, memory, batch, learning rate and steps, without training.

    Example: mae-ext plan image_in1k_vitb --data imagenet/train --world 8
    """
    from mae_ext.data.loading.batches import build_reader
    from mae_ext.data.sources.meant import odd, opening
    from mae_ext.data.sources.table import list_items
    from mae_ext.engine.estimate import describe
    from mae_ext.engine.log import say, warn

    config = chosen("plan", config, data)
    loaded = configured(config, data, set_)
    if loaded.task.name != "pretrain":
        raise UserError(f"{config}: is of the task '{loaded.task.name}'; plan knows the cost of pretraining alone")
    files = {}
    for name, m in loaded.modalities.items():
        if m.data.path:
            items = list_items(m.data.path, build_reader(m, name).suffixes)
            files[name] = len(items)
            say(opening(items, m.data.path, name))
            for remark in odd(items, m.data.path):
                warn(remark)
    print(describe(loaded, files, world))


@app.command()
def replay(
    failure: Annotated[str, typer.Argument(metavar="FAILURE", help="A failure-XXXXXXXX folder of a run.")],
) -> None:
    """Repeat the step that stopped a run with a non-finite loss; prints one JSON object.

    Example: mae-ext replay runs/photos/failure-00000123
    """
    from mae_ext.engine.failure import replay as repeat

    print(dumps(repeat(failure)))
