"""The list of the good says of each sample what its source said."""

from pathlib import Path

import numpy as np
import pytest

from mae_ext.cli import run
from mae_ext.data.loading.good_list import Rows
from mae_ext.data.sources.table import list_items
from mae_ext.errors import UserError

SUFFIXES = (".png",)


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(folder / name) for name in names]


def written(source: str, bad: set[str], out: Path) -> str:
    """What --data takes of the list without the bad ones."""
    rows = Rows.of([source], SUFFIXES, out)
    out.parent.mkdir(exist_ok=True)
    out.write_text(rows.text(set(rows.addresses) - bad, out), encoding="utf-8", errors="surrogateescape", newline="")
    return rows.as_data(out)


@pytest.mark.parametrize("name", ["good.csv", "good.txt"])
def test_the_good_of_class_folders_keep_their_classes(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "pets", "cat, big/a 1.png", "cat, big/b,c.png", "dog/a.png", "dog/bad.png")
    bad = str(tmp_path / "pets/dog/bad.png")
    before = list_items(str(tmp_path / "pets"), SUFFIXES)
    items = list_items(written(str(tmp_path / "pets"), {bad}, tmp_path / "else" / name), SUFFIXES)
    assert list(items.addresses) == [a for a in before.addresses if a != bad]
    assert items.labels is not None and [items.classes[i] for i in items.labels] == ["cat, big", "cat, big", "dog"]


def test_a_csv_keeps_its_columns_and_what_was_typed_to_read_it(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.png", "b.png", "c.png")
    (tmp_path / "index.csv").write_text(
        "file,finding,patient,age,split\na.png,x,P1,30,train\nb.png,y,P2,31,train\nc.png,y,P3,32,test\n"
    )
    source = f"{tmp_path}/index.csv::split=train,label=finding"
    data = written(source, {str(tmp_path / "images/a.png")}, tmp_path / "else/good.csv")
    assert (tmp_path / "else/good.csv").read_text() == (
        f"path,file,finding,patient,age,split\n{tmp_path}/images/b.png,b.png,y,P2,31,train\n"
    )
    assert data.endswith("good.csv::label=finding")
    items = list_items(data, SUFFIXES)
    assert items.classes == ("y",) and items.patients is not None and list(items.patients) == ["P2"]


def test_a_csv_of_several_classes_says_the_same_afterwards(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "index.csv").write_text("path,x,y\na.png,1,0\nb.png,,1\nc.png,0,0\n")
    before = list_items(f"{tmp_path}/index.csv::label=x+y", SUFFIXES)
    data = written(f"{tmp_path}/index.csv::label=x+y", set(), tmp_path / "else/good.csv")
    items = list_items(data, SUFFIXES)
    assert before.marks is not None and items.marks is not None and items.marks.tolist() == before.marks.tolist()


def test_a_plain_list_keeps_its_labels(tmp_path: Path) -> None:
    paths = touch(tmp_path / "clips", "a.png", "b c.png", "d.png")
    (tmp_path / "train.txt").write_text("clips/a.png 3\nclips/b c.png 1\nclips/d.png 2\n")
    data = written(str(tmp_path / "train.txt"), {paths[2]}, tmp_path / "good.txt")
    assert Path(data).read_text() == f"{paths[0]}\t3\n{paths[1]}\t1\n"
    assert list_items(data, SUFFIXES).classes == ("1", "3")


def test_rows_of_arrays_are_listed_as_such(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.zeros((3, 8, 8), np.uint8), train_labels=np.array([[0], [1], [1]]))
    source = str(tmp_path / "a.npz")
    items = list_items(written(source, {f"{source}::train_images::1"}, tmp_path / "good.csv"), SUFFIXES)
    assert list(items.addresses) == [f"{source}::train_images::{row}" for row in (0, 2)]
    assert items.labels is not None and items.labels.tolist() == [0, 1]


def test_what_a_list_cannot_say_is_refused_before_any_file_is_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "new\nline/b.png")
    np.savez(tmp_path / "a.npz", train_images=np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "index.csv").write_text("path,label,patient\na.png,x,P\n")
    for sources, out, why in (
        (["index.csv"], "good.txt", r"a \.txt has no columns for patient; name a \.csv"),
        (["new\nline"], "good.txt", r"cannot be a line of a \.txt"),
        (["a.png"], "good.json", r"expected a name that ends in \.csv or \.txt"),
        (["a.png", "a.npz"], "good.csv", "3 of 4 are in shards or arrays"),
    ):
        with pytest.raises(UserError, match=why):
            Rows.of([str(tmp_path / source) for source in sources], SUFFIXES, tmp_path / out)
    items = list_items(written(str(tmp_path / "new\nline"), set(), tmp_path / "good.csv"), SUFFIXES)
    assert list(items.addresses) == [str(tmp_path / "new\nline/b.png")]


def test_a_list_that_cannot_be_written_is_refused_and_none_is_left_where_nothing_is_good(
    tmp_path: Path, capsys
) -> None:
    touch(tmp_path, "photos/a.png")
    assert run(["doctor", f"{tmp_path}/photos", "--fix-list", f"{tmp_path}/none/good.csv"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert run(["doctor", f"{tmp_path}/photos", "--fix-list", f"{tmp_path}/good.csv"]) == 1
    assert "not written, as no file is good" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_neither_list_nor_verdicts_are_written_over_what_no_doctor_wrote(tmp_path: Path, capsys) -> None:
    touch(tmp_path, "photos/a.png", "photos/b.png")
    source, other, note = tmp_path / "all.txt", tmp_path / "other.csv", tmp_path / "note.json"
    for path, text in ((source, "photos/a.png\nphotos/b.png\n"), (other, "path,mine\na.png,1\n"), (note, '{"a": 1}')):
        path.write_text(text)
        for option in ("--json", "--fix-list"):
            if (option, path.suffix) not in (("--json", ".csv"), ("--fix-list", ".json")):
                assert run(["doctor", str(source), option, str(path)]) == 2
                assert f"{option} {path}: is there, and " in capsys.readouterr().err
        assert path.read_text() == text
    rows = Rows.of([str(source)], SUFFIXES, tmp_path / "good.csv")
    (tmp_path / "good.csv").write_text(rows.text({rows.addresses[0]}, tmp_path / "good.csv"))
    assert rows.wrote(tmp_path / "good.csv", [str(source)])
    for _ in range(2):  # what doctor wrote, it writes anew
        assert run(["doctor", str(source), "--json", f"{tmp_path}/verdicts.json"]) == 1
    assert "all verdicts" in capsys.readouterr().out
