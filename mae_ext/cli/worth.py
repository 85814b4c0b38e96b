"""The command that says what pretraining is worth: worth."""

from typing import Annotated, Literal

import typer

from mae_ext.cli.app import RunArg, SetOption, app
from mae_ext.errors import UserError
from mae_ext.launcher import alone
from mae_ext.writing import folder_for, locked

PLAN = "Say what would be run, and about how long, and stop; what was timed stays in --out."


@app.command()
def worth(
    run: RunArg,
    data: Annotated[str, typer.Option("--data", help="Labelled samples to learn from, as finetune takes them.")],
    test: Annotated[str, typer.Option("--test", help="Labelled samples to be judged on; none of --data.")],
    task: Annotated[str | None, typer.Option("--task", help="classify, segment or detect.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Instead of --task: a YAML file or recipe of fine-tuning.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Folder for runs and results; what is in it is not made again.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Numbers of labels; by default '1, 3, 10, 10 %, all', as they go.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Draws of labels and trainings of each.")] = 3,
    arms: Annotated[
        str | None,
        typer.Option("--arms", help="Of frozen, attentive, finetuned, scratch, random, majority, raw, mean_image."),
    ] = None,
    rates: Annotated[
        Literal["choose", "off"], typer.Option("--rates", help="choose each side's on a part of --data, or take all.")
    ] = "choose",
    set_: SetOption = None,
    pretrained_set: Annotated[
        list[str] | None, typer.Option("--pretrained-set", metavar="KEY=VALUE", help="For what starts from RUN alone.")
    ] = None,
    scratch_set: Annotated[
        list[str] | None, typer.Option("--scratch-set", metavar="KEY=VALUE", help="For what starts from nothing alone.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help=PLAN)] = False,
) -> None:
    """Say what pretraining is worth on labelled data: arms side by side at several numbers of labels, over seeds.

    Example: mae-ext worth runs/mine --data labelled/train --test labelled/test --task classify; the same command goes
    on where it was stopped, and reuses runs where --labels, --arms or --seeds grow (rates are chosen again where the
    largest number of --labels is another).
    """
    from mae_ext.engine.log import say
    from mae_ext.report.worth import write_worth
    from mae_ext.worth.run import planned, printed
    from mae_ext.worth.run import worth as make
    from mae_ext.worth.study import Wish, place_of, study_of

    alone("worth")
    sides = (tuple(set_ or ()), tuple(pretrained_set or ()), tuple(scratch_set or ()))
    if out is not None and not out.strip():
        raise UserError(f"--out '{out}': expected a folder; leave --out away for one in RUN")
    folder = place_of(run, data, test, config or task, out)
    wish = Wish(run, data, test, folder, task, config, labels, arms, seeds, rates, *sides)
    # A plan may be looked at while another command works there.
    with folder_for(folder) if plan else locked(folder, "making a study"):
        study = study_of(wish)
        ahead = planned(study)
        if plan:
            print(ahead.text(study))
            return
        say(ahead.text(study))
        print(printed(make(study, ahead, say)))
        print(write_worth(folder))
