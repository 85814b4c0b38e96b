"""What every module outside mae_ext/data declares: constants, signatures with defaults, fields; and the command line."""
# ruff: noqa: E501, PLW2901

import importlib
import inspect
import pkgutil
import re
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import typer
from golden.rest import Note, area, digest, told
from pydantic import BaseModel

import mae_ext
from mae_ext.features.sharing import Opened
from mae_ext.probing.spec import ProbeSpec


def modules() -> list[ModuleType]:
    names = [m.name for m in pkgutil.walk_packages(mae_ext.__path__, "mae_ext.")]
    return [
        importlib.import_module(n)
        for n in sorted(names)
        if not n.startswith("mae_ext.data") and not n.endswith("__main__")
    ]


def plain(value: Any) -> Any:
    """Of a default or constant what does not depend on addresses or versions."""
    if isinstance(value, re.Pattern):
        return f"{value.pattern} {value.flags}"
    return (
        re.sub(r" at 0x[0-9a-f]+", "", repr(value))
        if not isinstance(value, dict)
        else {str(k): plain(v) for k, v in value.items()}
    )


def signature(function: Any) -> str:
    parts = []
    for p in inspect.signature(function).parameters.values():
        kind = {p.KEYWORD_ONLY: "*,", p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        parts.append(f"{kind}{p.name}" + ("" if p.default is p.empty else f"={plain(p.default)}"))
    return ", ".join(parts)


@area()
def constants(note: Note) -> None:
    for module in modules():
        for name, value in vars(module).items():
            if re.fullmatch(r"_?[A-Z][A-Z0-9_]*", name) and isinstance(
                value, int | float | str | tuple | dict | frozenset | set | re.Pattern
            ):
                if name in ("NATIVE", "ONEDNN", "T", "LOADED", "ALL"):
                    continue  # of this processor
                value = sorted(value) if isinstance(value, set | frozenset) else value
                shown = plain(value)
                if (
                    module.__name__.startswith("mae_ext.interop.")
                    and isinstance(value, dict | tuple)
                    and len(value) > 3
                ):
                    shown = digest(str(value))  # tables of other programs' names, which are long
                note(f"{module.__name__}.{name}", shown)


@area()
def signatures(note: Note) -> None:
    for module in modules():
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value) and inspect.signature(value).parameters:
                if any(p.default is not p.empty for p in inspect.signature(value).parameters.values()):
                    note(f"{module.__name__}.{name}", signature(value))
            elif inspect.isclass(value) and not issubclass(value, BaseModel):
                for method, inner in vars(value).items():
                    if (
                        inspect.isfunction(inner)
                        and "Proto" not in str(value.__mro__)
                        and any(p.default is not p.empty for p in inspect.signature(inner).parameters.values())
                    ):
                        note(f"{module.__name__}.{name}.{method}", signature(inner))


@area()
def fields(note: Note) -> None:
    """Of every section of a config and of a card: type, limits and default."""
    for module in modules():
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, BaseModel) and value.__module__ == module.__name__:
                for key, field in value.model_fields.items():
                    schema = value.model_json_schema()["properties"].get(key, {})
                    kind = {k: v for k, v in schema.items() if k not in ("title", "description", "default")}
                    note(f"{name}.{key}", [plain(field.default), plain(kind)])


SMALL = ["finetune_cifar10_vitt", "--init", "none", "--set", "model.size=tiny"]
SMALL += ["--set", "modalities.image.size=[32,32]", "--set", "modalities.image.patch=[4,4]"]

COMMANDS: dict[str, tuple[str, list[list[str]]]] = {
    "probe": (
        "mae_ext.probing.probe.probe",
        [
            ["run", "--train", "a", "--test", "b"],
            ["run", "--train", "a", "--folds", "3"],
            ["run", "--train", "a", "--folds", "2", "--k", "7", "--pool", "class", "--modality", "image"],
            ["run", "--train", "a", "--test", "b", "--max-bad-fraction", "0", "--random-weights"],
            ["run", "--train", "a", "--test", "b", "--attentive"],
            ["run", "--train", "a", "--test", "b", "--mirror"],
            ["run", "--train", "a", "--folds", "1"],
            ["run", "--train", "a", "--k", "0"],
            ["run"],
        ],
    ),
    "embed": (
        "mae_ext.features.embed.embed",
        [
            ["run", "a", "--out", "o.safetensors"],
            ["run", "a", "--out", "o.safetensors", "--pool", "class"],
            ["run", "a", "--out", "o", "--modality", "m", "--max-bad-fraction", "0.25", "--map"],
            ["run", "a", "--out", "o", "--neighbours", "1"],
            ["run", "a", "--out", "o", "--neighbours", "0"],
            ["run", "a"],
            ["run", "a", "--out", "o", "--pool", "tokens"],
        ],
    ),
    "reconstruct": (
        "mae_ext.report.pictures.reconstruct",
        [
            ["run", "a"],
            ["run", "a", "b", "--out", "o", "--limit", "3", "--seed", "4"],
            ["run", "a", "--own-statistics", "--modality", "m"],
            ["run", "a", "--limit", "0"],
        ],
    ),
    "report": ("mae_ext.report.page.write_report", [["run"], []]),
    "replay": ("mae_ext.engine.failure.replay", [["failure"]]),
    "pretrain": (
        "mae_ext.engine.train.train",
        [
            ["image_folder"],
            ["image_folder", "--data", "d", "--out", "o", "--steps", "30", "--allow-change"],
            ["image_folder", "--set", "seed=4", "--set", "train.lr=1e-3"],
            ["image_folder", "--steps", "0"],
            ["finetune_folder", "--data", "d"],
            ["nothing_like_it"],
        ],
    ),
    "finetune": (
        "mae_ext.engine.train.train",
        [
            [*SMALL, "--data", "d", "--test", "t", "--out", "o", "--steps", "5"],
            [*SMALL, "--data", "d", "--allow-change"],
            ["image_folder", "--init", "none"],
            ["image_folder"],
            ["finetune_cifar10_vitt", "--init", "absent"],
        ],
    ),
    "prepare": (
        "mae_ext.data.loading.prepare.prepare",
        [
            ["image_folder", "--out", "c"],
            ["image_folder", "--out", "c", "--workers", "3", "--modality", "image", "--data", "d"],
            ["image_folder"],
            ["image_folder", "--out", "c", "--workers", "0"],
        ],
    ),
    "plan": (
        "mae_ext.engine.estimate.describe",
        [["image_folder"], ["image_folder", "--world", "4", "--set", "seed=2"], ["finetune_cifar10_vitt"]],
    ),
    "doctor": (
        "mae_ext.data.loading.doctor.inspect",
        [
            ["a", "b"],
            ["a", "--reader", "volume", "--deadline", "3"],
            ["a", "--config", "image_folder"],
            ["a", "--set", "x=1"],
            ["a", "--modality", "m"],
            ["a", "--deadline", "0.01"],
        ],
    ),
}


def said_to(target: str, command: str, words: list[str]) -> Any:
    """What the function behind a command is called with; the exit code and complaint where it is not."""
    import contextlib
    import io

    from mae_ext.cli import run

    calls: list[Any] = []

    def listening(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = spelt_out(tuple(a.run if isinstance(a, Opened) else a for a in args), kwargs)
        shown = [given.model_dump(mode="json") if isinstance(given, BaseModel) else given for given in args]
        named = {k: v for k, v in kwargs.items() if not callable(v)}
        calls.append([[told(s) if isinstance(s, dict) else str(s) for s in shown], told(named)])
        if command == "doctor":
            return []
        return mock.MagicMock(without=(), modalities=(), bad=0) if command == "prepare" else {"a": float("nan")}

    complained, out = io.StringIO(), io.StringIO()
    opening = mock.patch("mae_ext.features.sharing.opened_run", named_run)
    with (
        mock.patch(target, listening),
        opening,
        contextlib.redirect_stderr(complained),
        contextlib.redirect_stdout(out),
    ):
        code = run([command, *words])
    printed = "" if command in ("prepare",) else out.getvalue()
    changed = [[compact(call[0]), call[1]] for call in calls]
    return [
        code,
        changed,
        " ".join(complained.getvalue().split()).partition(": Value error")[0].partition(": Input should")[0],
        " ".join(printed.split()),
    ]


def named_run(run: str, name: str | None, precision: str | None, device: str) -> Opened:
    """In the place of an encoder: what was asked of it."""
    encoder: Any = SimpleNamespace(randomised=lambda seed: SimpleNamespace(seed=seed))
    return Opened(f"{run} {name} {precision}", encoder)


def spelt_out(args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A spec as what it holds of the command line's words."""
    if not any(isinstance(value, ProbeSpec) for value in args):
        return args, named
    run, spec = args
    more = {key: getattr(spec, key) for key in ("max_bad_fraction", "attentive", "folds", "mirror")}
    return (run, spec.train, spec.test, spec.k, spec.pool), {
        "baseline": named["baseline"], "name": named.get("name"), **more,
    }  # fmt: skip


def compact(args: Any) -> Any:
    return [str(a) for a in args]


SAID = (
    "default",
    "help",
    "max",
    "metavar",
    "min",
    "multiple",
    "nargs",
    "opts",
    "required",
    "secondary_opts",
    "is_flag",
)


def said(value: Any) -> Any:
    """Of a parameter of a command, without addresses and classes."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [said(inner) for inner in value]
    return (
        {k: v for k, v in vars(value).items() if k in ("min", "max", "choices", "name")}
        if hasattr(value, "__dict__")
        else ""
    )


@area()
def commands(note: Note) -> None:
    from mae_ext.cli import app, run

    group = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        note(f"help of {name}", command.help)
        for p in command.params:
            note(
                f"{name} {p.name}",
                {k: said(v) for k, v in sorted(vars(p).items()) if k in SAID and v not in (None, False, [], 1)},
            )
    for command, (target, tries) in COMMANDS.items():
        for words in tries:
            note(f"mae-ext {command} {' '.join(words)}", said_to(target, command, words))
    note("no command", run([]))
    note("unknown command", run(["pretrane"]))
