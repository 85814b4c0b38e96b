"""S1 to S4: what must not be executed, followed, waited for, or break others: pickles, YAML, paths, plug-ins."""

import io
import os
import pickle
import socket
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import test_config_text
import torch
from fault_list.inputs import make_photos, write_config
from fault_list.rows_saves import in_fork, prepare_damage, train
from fault_list.trial import Outcome, Row, processor_s
from faults.test_payloads import BROKEN, TAGS, sign
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from mae_ext.cli import run
from mae_ext.config import parse_config
from mae_ext.engine import checkpoint
from mae_ext.errors import ConfigError
from mae_ext.strict_yaml import read_yaml


class Opens:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self.canary), "w")


class Runs(Opens):
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.canary}",)


def gadgets(canary: Path) -> list[bytes]:
    forms = []
    for payload in (Opens(canary), Runs(canary)):
        forms += [pickle.dumps(payload, protocol=n) for n in range(6)]
        zipped, flat, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
        torch.save({"model": payload}, zipped)
        torch.save({"model": payload}, flat, _use_new_zipfile_serialization=False)
        np.save(array, np.array([payload], dtype=object), allow_pickle=True)
        np.savez(archive, train_images=np.array([payload] * 4, dtype=object))
        forms += [stream.getvalue() for stream in (zipped, flat, array, archive)]
    return forms


def executed(number: int, folder: Path, shared: Path) -> Outcome:
    """One gadget in the place of weights, of a checkpoint's files, of data."""
    canary, config, photos = folder / "canary", shared / "config.yaml", shared / "photos"
    content, lost, injected = gadgets(canary)[number], [], 0
    tried: list[Callable[[], int]] = []
    weights = folder / "weights.pt"
    weights.write_bytes(content)
    tried.append(lambda: run(["embed", str(weights), str(photos), "--out", str(folder / "f.safetensors")]))
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "config.yaml"):
        out = folder / name.replace(".", "_")
        os.system(f"cp -r {shared / 'whole'} {out}")
        for path in checkpoint.steps_of(out / "checkpoints"):
            (path / name).write_bytes(content)
            sign(path)
        tried.append(lambda out=out: train(config, photos, out, "--set", "train.steps=12"))
    for name in ("x.jpg", "x.npz"):
        data = folder / f"data_{name[2:]}"
        data.mkdir()
        (data / name).write_bytes(content)
        source = data / name if name == "x.npz" else data
        tried.append(lambda source=source: train(config, source, folder / "run"))
    for work in tried:
        injected += 1
        code = in_fork(work)
        if canary.exists() or code not in (1, 2):
            lost.append(f"place {injected}: ended with {code}, canary {'touched' if canary.exists() else 'untouched'}")
            canary.unlink(missing_ok=True)
    if "Traceback" in folder.with_suffix(".log").read_text():
        lost.append("a traceback")
    return Outcome(injected, tuple(lost))


TEXTS = [
    *(f"seed: {tag.replace('CANARY', '/tmp/mae_ext_canary')}" for tag in TAGS),
    *(f"a: &a [{', '.join(['x'] * 9)}]\n" + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in
      zip("abcdefghi"[:n], "bcdefghij", strict=False)) for n in range(1, 10)),
    *("[" * depth for depth in (100, 1000, 10_000, 100_000)),
    *("{a: " * depth for depth in (100, 1000, 10_000, 100_000)),
    *("- " * depth for depth in (100, 10_000, 100_000)), *("? " * depth for depth in (100, 10_000)),
    *(f"seed: {c}1" for c in "\0\x01\x1b\x7f"), "\0", "seed: 1\0",
    *("x" * size for size in (2 << 20, (2 << 20) + 1, 3 << 20)), "#" * (2 << 20), "a: b\n" * 500_000,
    *(f"{key}: 1\n{key}: 2" for key in ("seed", "train", "model", "'a'")), "train: {steps: 1, steps: 2}",
    "<<: *a", "a: *a", "a: &a *a", "&a a: *a", "!!set {a}", "!!omap [a: 1]", "%YAML 9.9\n---\na",
    "--- 1\n--- 2", "!<x> y",
]  # fmt: skip
EXAMPLES = 1000


def yaml_text(number: int, _: Path, __: Path) -> Outcome:
    """The texts above; from 1 on, a thousand of Hypothesis."""
    if number:
        test = test_config_text.test_any_text_at_all_is_a_config_or_a_config_error_of_one_line
        texts = st.one_of(st.text(max_size=60), st.lists(test_config_text.WORDS, max_size=25).map("".join))
        slow = [HealthCheck.too_slow]
        fresh = settings(max_examples=EXAMPLES, deadline=1000, database=None, suppress_health_check=slow)
        fresh(seed(number)(given(texts)(test.hypothesis.inner_test)))()
        return Outcome(EXAMPLES)
    lost = []
    for text in TEXTS:
        began = processor_s()
        try:
            parse_config(read_yaml(text, "here"), "here")
            lost.append(f"believed: {text[:40]!r}")
        except ConfigError:
            pass
        seconds = processor_s() - began
        lost += [] if seconds < 1 else [f"{seconds:.1f} s: {text[:40]!r}"]
    lost += ["a tag was executed"] if Path("/tmp/mae_ext_canary").exists() else []
    return Outcome(len(TEXTS), tuple(lost))


def picture_bytes() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def link(to: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "x.png").symlink_to(to)


def in_tar(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> Callable[[Path], None]:
    """A shard with a member of that name, beside good ones."""

    def make(folder: Path) -> None:
        with tarfile.open(folder / "shard.tar", "w") as tar:
            for member in (*(f"{n}.png" for n in range(12)), name):
                info = tarfile.TarInfo(member)
                odd = member == name
                info.type, info.linkname = (kind, to) if odd else (tarfile.REGTYPE, "")
                content = picture_bytes() if info.type == tarfile.REGTYPE else b""
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        for path in folder.glob("*.png"):
            path.unlink()

    return make


def listed(*paths: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        good = [path.name for path in sorted(folder.glob("*.png"))]
        (folder / "list.txt").write_text("\n".join([*good, *paths]) + "\n")

    return make


def bound(folder: Path) -> None:
    os.chdir(folder)
    socket.socket(socket.AF_UNIX).bind("x.png")


PATHS: dict[str, Callable[[Path], None]] = {
    "FIFO": lambda folder: os.mkfifo(folder / "x.png"), "socket": bound,
    "device": link("/dev/zero"), "random device": link("/dev/urandom"), "terminal": link("/dev/tty"),
    "link out of the folder": link("/etc/passwd"), "link to nothing": link("/no/such/file"),
    "link to itself": link("x.png"),
    "link to /proc": link("/proc/self/mem"), "a folder": lambda folder: (folder / "x.png").mkdir(),
    "newline": lambda folder: (folder / "two\nlines.png").write_bytes(b"") and None,
    "a name that is no text": lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.png")).touch(),
    "a list with ..": listed("../../etc/passwd.png"), "a list with a FIFO": lambda folder: (
        os.mkfifo(folder / "pipe.png"), listed("pipe.png")(folder), None)[-1],
    "a list with a device": listed("/dev/zero"), "a list with NUL": listed("a\0b.png"),
    "shard with ..": in_tar("../../../evil.png"), "shard with /": in_tar("/tmp/evil.png"),
    "shard with a link": in_tar("evil.png", tarfile.SYMTYPE, "/etc/passwd"), "shard with a device": in_tar(
        "evil.png", tarfile.CHRTYPE),
}  # fmt: skip


def odd_path(number: int, folder: Path, _: Path) -> Outcome:
    name = list(PATHS)[number]
    data = make_photos(folder / "data", 24)
    for path in data.glob("*.jpg"):
        path.unlink()
    PATHS[name](data)
    source = next((data / file for file in ("shard.tar", "list.txt") if (data / file).exists()), data)
    config = write_config(folder, {"train.steps": 6, "modalities.image.data.max_bad_fraction": 0.2})
    began = time.monotonic()
    code = in_fork(lambda: train(config, source, folder / "run"))
    said = folder.with_suffix(".log").read_text()
    outside = [
        path for path in (folder / "evil.png", folder.parent / "evil.png", Path("/tmp/evil.png")) if path.exists()
    ]
    fine = code in (0, 2) and "Traceback" not in said and not outside
    how = "trained on the rest" if code == 0 else "refused"
    return Outcome(1, () if fine else (f"{name}: ended with {code}: {said[-200:]}",),
                   {f"count {how}": 1, "seconds": round(time.monotonic() - began, 1)})  # fmt: skip


def broken_plugin(number: int, folder: Path, shared: Path) -> Outcome:
    kind = list(BROKEN)[number]
    info, module = folder / "site" / "broken-0.3.dist-info", f"broken_{number}"
    info.mkdir(parents=True)
    (info.parent / f"{module}.py").write_text(BROKEN[kind])
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[mae_ext.readers]\nbroken = {module}:Reader\n")
    sys.path.insert(0, str(info.parent))
    broken = write_config(folder, {"train.steps": 2, "modalities.image.data.reader": {"name": "broken"}}, "broken")
    sound = write_config(folder, {"train.steps": 2}, "sound")
    codes = [in_fork(lambda c=c: train(c, shared / "photos", folder / c.stem)) for c in (broken, sound)]
    said = folder.with_suffix(".log").read_text()
    fine = codes[0] in (1, 2) and codes[1] == 0 and "Traceback" not in said and said.count("mae-ext: ") >= 1
    return Outcome(1, () if fine else (f"{kind}: ended with {codes}: {said[-200:]}",))


ROWS = (
    Row(
        "S1", "20 pickles that execute, as weights, as each file of a checkpoint, as data: refused, not executed",
        {"quick": 2, "full": 20}, executed, 300, prepare_damage,
    ),
    Row(
        "S2",
        f"{len(TEXTS)} hostile YAML texts (tags, aliases, depth, NUL, size, keys twice) and 10 000 of Hypothesis: one "
        "line, in a second",
        {"quick": 2, "full": 11}, yaml_text, 900,
    ),
    Row(
        "S3",
        "FIFOs, devices, sockets, links, .., names of two lines, in folders, lists and shards: nothing blocks or leaks",
        {"quick": 4, "full": len(PATHS)}, odd_path, 120,
    ),
    Row(
        "S4",
        "plug-ins that fail at import, lack their attribute, have another signature: one line, other runs unaffected",
        {"quick": 6, "full": len(BROKEN)}, broken_plugin, 120, prepare_damage,
    ),
)  # fmt: skip
