"""Make odd folders, run the commands that people run on them, and write docs/odd_folders.md with what they say first.

    python scripts/checks/odd_folders.py  # writes the page; `--check` says whether it is as it would be written

Pictures are of 48 x 40 pixels and models tiny, by settings that the page leaves out.
"""

import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mae_ext.cli import run

PAGE = Path(__file__).parents[2] / "docs" / "odd_folders.md"
HEAD = """\
# Odd folders

What is said of folders and lists that hardly mean what was typed, before anything is trained. The lines are what
the commands print up to the first step, `doctor` up to its verdicts; pictures are of 48 x 40 pixels and models tiny, by
settings that are left out here. `python scripts/checks/odd_folders.py` writes this page, and a test compares it.

Every start says what will be trained on: how many files, of which classes, and the first by name. Look at that line
before you leave a run alone.
"""
MODEL = ["model.size=null", "model.width=32", "model.depth=2", "model.heads=2", "train.workers=0"]
SMALL = [
    *("modalities.image.size=[32,32]", "modalities.image.patch=[8,8]", "modalities.image.batch=2"),
    *("modalities.image.data.statistics=imagenet", "train.tensorboard=false", "train.precision=fp32"),
]
PRETRAIN = ["model.decoder.width=16", "model.decoder.depth=1", "model.decoder.heads=2"]


@dataclass(frozen=True)
class Case:
    """make: the files, in the current folder. commands: as they are shown."""

    title: str
    say: str
    make: Callable[[], None]
    commands: tuple[str, ...]


def picture(path: str, size: tuple[int, int] = (48, 40)) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[: size[1], : size[0]]
    Image.fromarray(np.stack([x * 5 % 256, y * 6 % 256, (x + y) * 3 % 256], -1).astype(np.uint8)).save(path)


def pictures(*names: str, count: int = 3) -> None:
    for name in names:
        for number in range(count):
            picture(f"{name}/{number}.png")


def text(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


def inside(folder: str, *names: str) -> Callable[[], None]:
    return lambda: pictures(*(f"{folder}/{name}" for name in names))


def maps() -> None:
    pictures("scenes/images")
    for number in range(3):
        Path("scenes/masks").mkdir(exist_ok=True)
        Image.fromarray((np.mgrid[:40, :48][1] // 24).astype(np.uint8)).save(f"scenes/masks/{number}.png")


def frames_listed() -> None:
    pictures("clips/Archery", "clips/Biking")
    text("split/classInd.txt", "1 Archery\n2 Biking\n")
    rows = [
        f"{name}/{number}.png {label}" for label, name in enumerate(("Archery", "Biking"), 1) for number in range(3)
    ]
    text("split/trainlist01.txt", "\n".join(rows) + "\n")
    text("split/lengths.txt", "\n".join(row.replace(" ", " 300 ") for row in rows) + "\n")


def twice() -> None:
    pictures("pets/cat", "pets/dog")
    text("pets/labels.csv", "path,label\ncat/0.png,cat\ndog/0.png,dog\ncat/0.png,dog\n")


def boxes() -> None:
    pictures("street")
    box = {"category_id": 1, "bbox": [12, 10, 20, 20]}
    names = [*("0.PNG", "1.PNG", "2.PNG"), *(f"other{i}.png" for i in range(50))]
    images = [{"id": i, "file_name": f"day\\{name}", "width": 48, "height": 40} for i, name in enumerate(names)]
    whole = {
        "images": images,
        "annotations": [{"id": i, "image_id": i, **box} for i in range(len(names))],
        "categories": [{"id": 1, "name": "sign"}],
    }
    text("signs.json", json.dumps(whole))
    swapped = [{**image, "width": 40, "height": 48} for image in images]
    text("swapped.json", json.dumps({**whole, "images": swapped}))


CASES = [
    Case(
        "Class folders",
        "The usual case. Pretraining takes no heed of classes; the counts still tell whether this is the folder.",
        inside("photos", "cat", "dog"),
        ("doctor photos", "pretrain image_folder --data photos --out runs/photos"),
    ),
    Case(
        "The folder above train/ and test/",
        "As classes they are refused. Pretraining may well see all of it, and says that it does.",
        inside("digits", "train/0", "train/1", "test/0", "test/1"),
        (
            "doctor digits",
            "pretrain image_folder --data digits --out runs/digits",
            "finetune finetune_folder --init none --data digits --out runs/classes",
        ),
    ),
    Case(
        "Here, with the runs beside the pictures",
        "What a run wrote is no sample, so the same command goes on with the same files.",
        lambda: None,
        ("doctor .",),
    ),
    Case(
        "Images and their label maps in one folder",
        "",
        maps,
        (
            "pretrain image_folder --data scenes --out runs/scenes",
            "finetune finetune_folder --init none --data scenes --out runs/wrong",
            "finetune finetune_nuclei --init none --data scenes/images --set task.masks=scenes/masks --out runs/masks",
        ),
    ),
    Case(
        "Unpacked one level too deep",
        "",
        inside("archive", "PetImages/Cat", "PetImages/Dog"),
        ("finetune finetune_folder --init none --data archive --out runs/archive",),
    ),
    Case("Two spellings of a class", "", inside("fruit", "Apple", "apple", "pear"), ("doctor fruit",)),
    Case(
        "A list as UCF101 has it, in another folder than the files",
        "`root=` is seen from where the command runs. The names of the classes are in `classInd.txt`, beside the list.",
        frames_listed,
        ("doctor split/trainlist01.txt", "doctor split/trainlist01.txt::root=clips"),
    ),
    Case(
        "A list with a column that could be anything",
        "",
        lambda: None,
        ("doctor split/lengths.txt", "doctor split/lengths.txt::root=clips,columns=path+-+label"),
    ),
    Case("A list that contradicts itself", "", twice, ("doctor pets/labels.csv",)),
    Case(
        "One label file for more images than are used, made on Windows",
        "Backslashes and another suffix mean no other image where only one can be meant.",
        boxes,
        ("finetune finetune_bccd --init none --data street --set task.labels=signs.json --out runs/signs",),
    ),
    Case(
        "Label files with width and height swapped",
        "Where no file can be used, the end says why, and `bad_samples.jsonl` has each file.",
        lambda: None,
        ("finetune finetune_bccd --init none --data street --set task.labels=swapped.json --out runs/swapped",),
    ),
]


def said(command: str) -> list[str]:
    """What a command prints before its first step, and the line that it ends with where it is refused."""
    words = shlex.split(command)
    settings = []
    if words[0] != "doctor":
        settings = [*SMALL, *MODEL, *(PRETRAIN if words[0] == "pretrain" else [])]
        settings += ["modalities.image.patch=[16,16]"] if "finetune_bccd" in words else []
        words += ["--steps", "1"]
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
        run([*words, *(part for key in settings for part in ("--set", key))])
    lines = told.getvalue().splitlines()
    begun = next((i for i, line in enumerate(lines) if line.startswith("starting: ")), len(lines))
    return lines[:begun] + [line for line in lines[begun:] if line.startswith("mae-ext: ")]


def page(workplace: Path) -> Iterator[str]:
    """The parts of the page. workplace: an empty folder, in which the odd ones are made."""
    os.chdir(workplace)
    yield HEAD
    for case in CASES:
        case.make()
        yield f"\n## {case.title}\n"
        if case.say:
            yield f"\n{case.say}\n"
        for command in case.commands:
            lines = [line.replace(str(workplace.resolve()), "/home/you") for line in said(command)]
            yield "\n```\n" + "\n".join([f"$ mae-ext {command}", *lines]) + "\n```\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = "".join(page(Path(folder)))
        os.chdir("/")
    if "--check" in sys.argv:
        sys.exit(made != PAGE.read_text())
    PAGE.write_text(made)
