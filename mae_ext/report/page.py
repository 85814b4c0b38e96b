"""report.html: everything a run directory tells, in one file that needs nothing else."""

import base64
from collections import Counter
from html import escape
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mae_ext.config import Config
from mae_ext.engine.optim import peak_lr
from mae_ext.plugins import maskers
from mae_ext.report.curves import WIDE, Series, curve, short
from mae_ext.report.document import document, duration, pairs, section, table
from mae_ext.report.held_out import held_out_losses
from mae_ext.report.history import OVERVIEW, History, parameters, read_history
from mae_ext.report.probes import probes_section
from mae_ext.report.worth import studies_section
from mae_ext.writing import blamed_on, staged

MAX_PICTURES = 12
MAX_SCORES = 6
"""That are drawn as curves; the table has all."""
MAX_PICTURE_BYTES = 24 << 20
MAX_BAD_ROWS = 200
MEDIA = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg"}


def write_report(run: str | Path) -> Path:
    """Write `report.html` into a run directory, running or finished, and return its path.

    The page holds its pictures, curves, style and script; it asks nothing of the network. All text from the run is
    escaped. Raises UserError when `run` is not a run directory or cannot be written to.
    """
    run = Path(run)
    history = read_history(run)
    path = run / "report.html"
    with staged(path) as [partial]:
        html = page(history)
        with blamed_on(path):
            partial.write_text(html, encoding="utf-8", errors="backslashreplace")
    return path


def page(history: History) -> str:
    """The whole document."""
    title = history.run.resolve().name
    steps = history.column("step")
    state = f"{len(steps)} steps logged" if len(steps) else "no steps logged yet"
    sections = [
        _facts(history),
        *(f'<p class="warn">{escape(problem)}</p>' for problem in history.problems),
        section("Training", _charts(history)),
        section("Scores on held-out data", _evaluations(history.evaluations, any(held_out_losses(history)))),
        section("What pretraining is worth", studies_section(history.run)),
        section("Reconstructions", _pictures(history.run / "pictures")),
        section("Probes of the frozen encoder", probes_section(history.probes)),
        section("Features", _maps(history.run / "maps")),
        section("Loader health", _loader(history)),
        section("Setup", _setup(history)),
    ]
    return document(title, f"{escape(str(history.run.resolve()))} · {state}", "".join(sections))


def _facts(history: History) -> str:
    facts: list[tuple[str, str, str]] = []
    steps, epochs = history.finite("step"), history.finite("epoch")
    if len(steps):
        goal = _goal(history)
        facts.append(("steps", f"{int(steps[-1]):,}", f"of {goal:,}" if goal else ""))
    if len(epochs):
        facts.append(("epochs", f"{epochs[-1]:.4g}", ""))
    if len(loss := history.finite("loss")):
        recent = loss[-min(50, len(loss)) :]
        facts.append(("loss", f"{recent.mean():.4f}", f"last {len(recent)} steps; first {loss[0]:.4f}"))
    if len(rate := history.finite("samples_per_s")):
        facts.append(("throughput", f"{short(float(np.median(rate)))}/s", "samples, median"))
    if len(waiting := history.finite("data_wait")) and len(seconds := history.finite("seconds")):
        share = waiting.sum() / max(seconds.sum(), 1e-9)
        typical = f"of the time in steps; median step {np.nanmedian(history.waited()):.1%}"
        facts.append(("waiting for data", f"{share:.1%}", typical))
    if total := sum((stages := history.stages()).values()):
        each = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in stages.items())
        facts.append(("making batches", duration(total), f"by stage: {each}"))
    if len(seconds := history.finite("seconds")):
        facts.append(("time in steps", duration(float(seconds.sum())), ""))
    if history.checkpoints:
        counts = parameters(history.run / "checkpoints" / history.checkpoints[-1].name)
        if counts:
            rest = f"encoder {short(counts['encoder'])}" if "encoder" in counts else ""
            facts.append(("parameters", short(sum(counts.values())), rest))
    if best := history.best:
        facts.append(("best on held-out data", f"{best.value:.4f}", f"{best.score} at step {best.step:,}"))
    facts.append(("bad samples", str(len({str(b.get("path")) for b in history.bad})), "different files"))
    boxes = (
        f'<div class="fact"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>'
        for name, value, note in facts
    )
    return f'<div class="facts">{"".join(boxes)}</div>'


def _goal(history: History) -> int | None:
    """How many steps the run is to take; from epochs by the pace so far."""
    if history.config is None:
        return None
    train, steps, epochs = history.config.train, history.column("step"), history.column("epoch")
    if train.steps is not None:
        return train.steps
    if train.epochs is None or not len(epochs) or not epochs[-1] > 0:
        return None
    return max(round(train.epochs * float(steps[-1]) / float(epochs[-1])), int(steps[-1]))


def _charts(history: History) -> str:
    steps = history.column("step")
    if not len(steps):
        return "<p>No step has been logged yet.</p>"

    def series(name: str, column: str) -> list[Series]:
        return [Series(name, steps, history.metrics[column])] if column in history.metrics else []

    per_modality = [s for c in history.metrics if c.startswith("loss/") for s in series(c.removeprefix("loss/"), c)]
    total, each = held_out_losses(history)
    charts = [
        curve("loss", series("loss", "loss") + total, width=WIDE),
        curve("loss by modality", per_modality + each, width=WIDE),
        curve("learning rate", series("lr", "lr"), zero=True),
        curve("gradient norm", series("grad_norm", "grad_norm"), zero=True),
        curve("samples per second", series("samples/s", "samples_per_s"), zero=True),
        curve("waiting for data, % of the step", _share(steps, history), " %", zero=True),
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def _share(steps: np.ndarray, history: History) -> list[Series]:
    """Time waited for data in each step, in percent of that step."""
    share = history.waited()
    return [Series("data wait", steps, 100 * share)] if len(share) else []


def _evaluations(scores: dict[str, np.ndarray], with_losses: bool = False) -> str:
    """How each score went, if it is not drawn with the losses, and what it is now. The number of samples is none."""
    steps = scores.get("step", np.empty(0))
    named = {name: values for name, values in scores.items() if name not in ("step", "samples")}
    if not len(steps) or not named:
        return ""
    shown = list(named.items())[:MAX_SCORES] if len(steps) > 1 and not with_losses else []
    charts = [curve(name, [Series(name, steps, values)]) for name, values in shown]
    rows = [(name, f"{values[-1]:.4f}", *_spread(steps, values)) for name, values in named.items()]
    last = f"{int(steps[-1]):,}"
    drawn = f'<div class="charts">{"".join(charts)}</div>' if charts else ""
    return drawn + table(("score", f"at step {last}", "lowest", "highest"), rows, numbers=(1, 2, 3))


def _spread(steps: np.ndarray, values: np.ndarray) -> tuple[str, str]:
    """The lowest and the highest value, each with its step; which of them is the better one depends on the score."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return "–", "–"
    ends = (known[values[known].argmin()], known[values[known].argmax()])
    low, high = (f"{values[i]:.4f} ({int(steps[i]):,})" for i in ends)
    return low, high


def _pictures(folder: Path) -> str:
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in MEDIA) if folder.is_dir() else []
    sheets = [f for f in files if f.stem == OVERVIEW or f.stem.startswith(f"{OVERVIEW}_")]  # one for each modality
    whole = [figure for f in sheets if (figure := _figure(f, MAX_PICTURE_BYTES))]
    single = [f for f in files if f not in sheets]
    shown, left = [], MAX_PICTURE_BYTES
    for file in single[:MAX_PICTURES]:
        if figure := _figure(file, left):
            shown.append(figure)
            left -= len(figure)
    more = len(single) - len(shown)
    each = f'<div class="pictures">{"".join(shown)}</div>' if shown else ""
    each += f'<p class="sub">{more} more in {escape(folder.name)}/</p>' if more else ""
    if whole and each:
        each = f"<details><summary>One by one, with file names</summary>{each}</details>"
    return f'<div class="pictures sheet">{"".join(whole)}</div>{each}' if whole else each


def _maps(folder: Path) -> str:
    """What `embed` drew of features: as wide as they are, each under its name."""
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in MEDIA) if folder.is_dir() else []
    drawn = [(f, figure) for f in files[:MAX_PICTURES] if (figure := _figure(f, MAX_PICTURE_BYTES))]
    return "".join(f'<h3>{escape(f.stem)}</h3><div class="pictures sheet">{figure}</div>' for f, figure in drawn)


def _figure(file: Path, most: int) -> str:
    """An <img> that holds its file, or "" when that cannot be read or is larger than `most` bytes."""
    try:
        if file.stat().st_size > most:
            return ""
        code = base64.b64encode(file.read_bytes()).decode("ascii")
    except OSError:
        return ""
    alternative = escape(file.stem, quote=True)
    return f'<figure><img src="data:{MEDIA[file.suffix.lower()]};base64,{code}" alt="{alternative}"></figure>'


def _loader(history: History) -> str:
    rate, share = history.finite("samples_per_s"), history.waited()
    wait = share[np.isfinite(share)]
    rows: list[tuple[str, str]] = []
    if len(rate):
        low, middle, high = np.quantile(rate, (0.05, 0.5, 0.95))
        rows.append(("samples/s: 5 %, median, 95 %", " · ".join(short(float(v)) for v in (low, middle, high))))
    if len(wait):
        rows.append(("data wait: median, worst step", f"{np.median(wait):.1%} · {wait.max():.1%}"))
        rows.append(("steps that waited over 20 %", f"{(wait > 0.2).sum()} of {len(wait)}"))
    rows += history.use()
    if history.config is not None and len(steps := history.finite("step")):
        rows.append(("samples seen", f"{history.config.samples_per_step * int(steps[-1]):,}"))
        allowed = min(m.data.max_bad_fraction for m in history.config.modalities.values())
        rows.append(("bad files before the run stops", f"{allowed:.2%} of all"))
    body = pairs(rows)
    if not history.bad:
        return f'<div class="columns"><div>{body}</div><div><p>No bad sample was met.</p></div></div>'
    # Each rank has a ledger of its own, and a file that several of them met is one file.
    by_step = sorted(history.bad, key=lambda line: s if isinstance(s := line.get("step"), int) else 0)
    by_file = {str(line.get("path", "–")): line for line in reversed(by_step)}
    kinds = Counter(str(line.get("kind", "–")) for line in by_file.values()).most_common(20)
    files = [
        (path, line.get("kind", "–"), line.get("detail", ""), line.get("step", "–"))
        for path, line in list(reversed(by_file.items()))[:MAX_BAD_ROWS]
    ]
    more = len(by_file) - len(files)
    return (
        f'<div class="columns"><div>{body}</div><div>{table(("kind of damage", "files"), kinds, (1,))}</div></div>'
        f"<h3>Bad samples</h3>{table(('file', 'kind', 'detail', 'first met at step'), files, (3,))}"
        + (f'<p class="sub">and {more} more files in bad_samples.jsonl</p>' if more else "")
    )


def _setup(history: History) -> str:
    parts = []
    if history.config is not None:
        left, right = _settings(history.config)
        parts.append(f'<div class="columns"><div>{left}</div><div>{right}</div></div>')
    if history.checkpoints:
        newest = history.checkpoints[-1]
        best = "" if history.best is None else history.best.checkpoint
        rows = [
            (c.name + ", the best" * (c.name == best), f"{c.step:,}", f"{c.megabytes:,.1f}")
            for c in history.checkpoints
        ]
        versions = newest.manifest.get("versions")
        pairs = sorted(versions.items()) if isinstance(versions, dict) else []
        saved = table(("checkpoint", "step", "MB"), rows, (1, 2))
        used = table(("written with", "version"), pairs) if pairs else ""
        saved, used = f"<h3>Checkpoints</h3>{saved}", f"<h3>Versions</h3>{used}" if used else ""
        parts.append(f'<div class="columns"><div>{saved}</div><div>{used}</div></div>')
    else:
        parts.append("<h3>Checkpoints</h3><p>None has been written yet.</p>")
    if history.config_text:
        parts.append(f"<details><summary>config.yaml</summary><pre>{escape(history.config_text)}</pre></details>")
    return "".join(parts)


def _settings(config: Config) -> tuple[str, str]:
    """Two tables: what is learned from, and how."""
    data: list[tuple[str, str]] = []
    hides = config.task.name == "pretrain"  # a task sees every token, and has no decoder
    for name, m in config.modalities.items():
        tokens, hidden = f"{_by(m.grid)} = {prod(m.grid)}", []
        if hides:
            tokens += f", {maskers.build(m.mask.name, m.mask.arguments, 'mask').num_keep(m.grid)} visible"
            parts = {"mask": m.mask, "decode": m.decode, "target": m.target}
            hidden = [(key, _plugin(spec.name, spec.arguments)) for key, spec in parts.items() if spec]
        s = m.data.statistics
        statistics = s if isinstance(s, str) else f"mean {_numbers(s.mean)}, std {_numbers(s.std)}"
        data += [
            (name, f"{_by(m.size)} × {m.channels} channels, patch {_by(m.patch)}"),
            ("tokens", tokens),
            *hidden,
            ("data", str(m.data.path)),
            ("statistics", statistics),
        ]
    model, train, decoder = config.model, config.train, config.model.decoder
    length = f"{train.steps:,} steps" if train.steps is not None else f"{train.epochs:g} epochs"
    warm = f"{train.warmup_steps} steps" if train.warmup_steps is not None else f"{train.warmup_epochs or 0:g} epochs"
    how = [
        ("encoder", f"{model.size or ''} {model.width} wide, {model.depth} deep, {model.heads} heads".strip()),
        ("decoder", f"{decoder.width} wide, {decoder.depth} deep, {decoder.heads} heads")
        if hides
        else ("task", _plugin(config.task.name, config.task.arguments)),
        ("length", f"{length}, warm-up {warm}"),
        ("batch", f"{config.samples_per_step}" + (f" in {train.accumulate} parts" if train.accumulate > 1 else "")),
        ("peak learning rate", f"{short(peak_lr(config))} (base {short(train.lr)})"),
        ("AdamW", f"weight decay {train.weight_decay:g}, betas {train.betas[0]:g} and {train.betas[1]:g}"),
        ("precision", train.precision + ("" if train.compile in ("auto", False) else ", compiled")),
        ("seed", str(config.seed)),
    ]
    return pairs(data), pairs(how)


def _by(lengths: tuple[int, ...]) -> str:
    return "×".join(map(str, lengths))


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


def _plugin(name: str, arguments: dict[str, Any]) -> str:
    return name + (f" ({', '.join(f'{k} {v}' for k, v in arguments.items())})" if arguments else "")
