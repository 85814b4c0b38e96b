"""Lists as VideoMAE, mmaction2, UCF101 and HMDB51 have them: read as they are, or told what to type."""

import os
import re
from pathlib import Path

import pytest

from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import UserError

FILMS = (".mp4", ".avi")


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write a list beside x/a b.mp4, x/c.mp4 and y/d.avi, and read it; the command runs in another folder."""
    for name in ("x/a b.mp4", "x/c.mp4", "y/d.avi", "frames/img_00001.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def go(text: str, name: str = "list.txt", asked: str = "", suffixes: tuple[str, ...] = FILMS) -> Items:
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        return list_items(f"{path}{asked}", suffixes)

    return go


def told(items: Items) -> list[tuple[str, str | None]]:
    labels = [-1] * len(items) if items.labels is None else items.labels.tolist()
    names = [os.path.relpath(a).removeprefix("../data/") for a in items.addresses]
    return [(name, None if label < 0 else items.classes[label]) for name, label in zip(names, labels, strict=True)]


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.tsv", "list.lst"])
@pytest.mark.parametrize(
    "text",
    [
        "x/a b.mp4 0\ny/d.avi 1\n",
        "x/a b.mp4,0\ny/d.avi,1\n",
        "x/a b.mp4\t0\ny/d.avi\t1\n",
        "x/a b.mp4; 0\r\ny/d.avi; 1\r\n",
        '"x/a b.mp4" 0\n"y/d.avi" 1\n',
        "x\\a b.mp4 0\ny\\d.avi 1\n",
    ],
    ids=["spaces", "commas", "tabs", "semicolons", "quotes", "windows"],
)
def test_a_path_and_a_label_are_read_however_they_stand_apart(read, text, name):
    assert told(read(text, name)) == [("x/a b.mp4", "0"), ("y/d.avi", "1")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("path label\nx/a b.mp4 0\ny/d.avi 1\n", "list.txt"),
        ("video_path,class\nx/a b.mp4,0\ny/d.avi,1\n", "list.txt"),
        ("label video\n0 x/c.mp4\n1 x/a b.mp4\n", "list.txt"),
        ("path label\nx/c.mp4 0\ny/d.avi 1\n", "list.csv"),
        ("path;label\nx/c.mp4;0\ny/d.avi;1\n", "list.csv"),
        ("path\tlabel\nx/c.mp4\t0\ny/d.avi\t1\n", "list.tsv"),
    ],
)
def test_a_header_is_no_row_and_says_which_column_is_which(read, text, name):
    assert [label for _, label in told(read(text, name))] == ["0", "1"]


def test_labels_of_words_may_have_spaces(read):
    assert told(read("x/c.mp4 riding a bike\ny/d.avi archery\n"))[0] == ("x/c.mp4", "riding a bike")


def test_paths_without_labels_keep_their_spaces(read):
    assert told(read("x/a b.mp4\nx/c.mp4\n")) == [("x/a b.mp4", None), ("x/c.mp4", None)]


def test_names_that_lack_their_suffix_get_it(read):
    assert told(read("x/c 0\n")) == [("x/c.mp4", "0")]


def test_the_lists_of_videomae_s_pretraining_are_whole_films_without_labels(read):
    assert told(read("x/c.mp4 0 -1\ny/d.avi 0 -1\n", "train.csv")) == [("x/c.mp4", None), ("y/d.avi", None)]


def test_the_classes_of_ucf101_have_their_names_in_training_and_test(read, tmp_path):
    (tmp_path / "data" / "classInd.txt").write_text("1 x\r\n2 y\r\n")
    assert told(read("x/c.mp4 1\r\ny/d.avi 2\r\n", "trainlist01.txt")) == [("x/c.mp4", "x"), ("y/d.avi", "y")]
    assert told(read("x/a b.mp4\r\ny/d.avi\r\n", "testlist01.txt")) == [("x/a b.mp4", "x"), ("y/d.avi", "y")]


def test_a_class_index_counts_lines_from_0_and_one_that_does_not_fit_is_left_alone(read, tmp_path):
    (tmp_path / "data" / "label_map.txt").write_text("abseiling\nair drumming\n")
    assert told(read("x/c.mp4 1\ny/d.avi 0\n")) == [("x/c.mp4", "air drumming"), ("y/d.avi", "abseiling")]
    assert told(read("x/c.mp4 1\ny/d.avi 2\n")) == [("x/c.mp4", "1"), ("y/d.avi", "2")]
    with pytest.raises(UserError, match=r"classes=label_map\.txt: knows 2 classes, and not '2'"):
        read("x/c.mp4 1\ny/d.avi 2\n", asked="::classes=label_map.txt")
    (tmp_path / "names").write_text("a 2\nb 1\n")
    found = read("path,label\nx/c.mp4,1\ny/d.avi,2\n", "list.csv", f"::classes={tmp_path}/names")
    assert told(found) == [("x/c.mp4", "b"), ("y/d.avi", "a")]


def test_files_that_lie_elsewhere_are_found_and_named_with_what_to_type(read):
    with pytest.raises(UserError, match=r"They are in .*/data: type '.*/lists/l\.txt::root=\.\./data'"):
        read("x/c.mp4 0\n", "lists/l.txt")
    assert told(read("x/c.mp4 0\n", "lists/l.txt", "::root=../data")) == [("x/c.mp4", "0")]
    assert told(read("path\nx/c.mp4\n", "lists/l.csv", "::root=../data")) == [("x/c.mp4", None)]


def test_files_may_be_seen_from_where_the_command_runs(read):
    Path("here.mp4").touch()
    assert told(read("here.mp4 0\n")) == [("here.mp4", "0")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x/c.mp4 300 4\n", r"has 3 columns. .*type '.*list\.txt::columns=path\+-\+label'"),
        ("x/c.mp4 10 30 4\n", r"has 4 columns.*columns=path\+-\+-\+label'.*cut the parts out first, ffmpeg"),
        ("x/c.mp4 4 5\ny/d.avi 3\n", r"write a \.csv with the columns path and label, and \| between"),
        ("frames 163 1\n", r"a folder of frames.*ffmpeg -i frames/img_%05d\.jpg frames\.mp4"),
        ("frames 1\n", "a folder of frames"),
    ],
)
def test_columns_that_nobody_can_know_are_asked_about(read, text, words):
    with pytest.raises(UserError, match=words):
        read(text)


def test_what_the_message_says_to_type_is_read(read):
    assert told(read("x/c.mp4 300 4\n", asked="::columns=path+-+label")) == [("x/c.mp4", "4")]
    assert told(read("17\t4\tx/a b.mp4\n", "list.lst", "::columns=-+label+path")) == [("x/a b.mp4", "4")]


@pytest.mark.parametrize("columns", ["label", "path+path", "path+what", "path"])
def test_columns_that_do_not_fit_are_refused(read, columns):
    with pytest.raises(UserError, match="columns"):
        read("x/c.mp4 3\n", asked=f"::columns={columns}")


def test_hmdb51_s_lists_are_recognised_and_what_makes_lists_of_them_does(read, tmp_path):
    with pytest.raises(UserError, match=r"name no class.*done > train\.txt") as info:
        read("c.mp4 1\na b.mp4 0\n", "x_test_split1.txt")
    script = str(info.value).partition("in their folder: ")[2].partition("; the same")[0]
    assert os.system(f"cd {tmp_path}/data && {script}") == 0
    assert (tmp_path / "data" / "train.txt").read_text() == "x/c.mp4\tx\n"


def test_two_labels_of_one_file_are_refused_by_line_and_the_same_one_twice_is_said(read, caplog):
    with pytest.raises(UserError, match=r"1 rows contradict others: x/c\.mp4 is '0' in line 1 and '1' in line 3"):
        read("x/c.mp4 0\ny/d.avi 1\nx/c.mp4 1\n")
    with pytest.raises(UserError, match=r"x/c\.mp4 is 'p' in line 2 and 'q' in line 3"):
        read("path,patient\nx/c.mp4,p\nx/c.mp4,q\n", "list.csv")
    with pytest.raises(UserError, match="1 rows contradict others"):
        read("path,label\nx/c.mp4,a|b\nx/c.mp4,a\n", "list.csv")
    assert not caplog.messages
    assert len(read("x/c.mp4 0\nx/c.mp4 0\n")) == 2
    assert "1 rows name a file again, which counts as often: x/c.mp4 in lines 1 and 2" in caplog.text


def test_columns_of_other_names_are_proposed(read):
    with pytest.raises(UserError, match=r"type '.*list\.csv::path=clip,label=class'"):
        read("clip,frames,class\nx/c.mp4,300,q\n", "list.csv")
    assert told(read("clip,frames,class\nx/c.mp4,300,q\n", "list.csv", "::path=clip,label=class")) == [("x/c.mp4", "q")]


def test_columns_that_name_a_part_of_a_film_are_said_not_to_be_read(read, caplog):
    read("path,start,end,label\nx/c.mp4,1,2,q\n", "list.csv")
    assert "the columns start, end are not read: clips are taken from whole files" in caplog.text


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("0 x/c.mp4\n0 y/d.avi\n", "label+path"),
        ("cat\tx/c.mp4\ncat\ty/d.avi\n", "label+path"),
        ("1 x/c.mp4\n2 y/d.avi\n", "-+path"),
        ("1\t0.0\tx/c.mp4\n2\t0.0\ty/d.avi\n", "-+label+path"),
    ],
    ids=["label first", "label, tab", "numbers, as CUB", "MXNet"],
)
def test_a_path_in_another_column_is_refused_with_what_to_type_and_that_is_read(read, text, columns):
    with pytest.raises(UserError, match=r"has its path in column [23]: .*::columns=" + re.escape(columns) + "'"):
        read(text)
    items = read(text, asked=f"::columns={columns}")
    assert [name for name, _ in told(items)] == ["x/c.mp4", "y/d.avi"]
    assert len(items.classes) == ("label" in columns)


def test_lines_that_begin_with_a_sharp_sign_are_passed_over_unless_they_name_a_file(read):
    assert told(read("# made by hand\nx/c.mp4 0\n# the end\n")) == [("x/c.mp4", "0")]
    assert len(read("#1.mp4 0\nx/c.mp4 1\n")) == 2


@pytest.mark.parametrize("spelt", ["./x/c.mp4", "x\\c.mp4", "{absolute}"])
def test_two_labels_of_one_file_are_refused_however_it_is_spelt(read, spelt, tmp_path):
    spelt = spelt.format(absolute=tmp_path / "data/x/c.mp4")
    with pytest.raises(UserError, match=r"1 rows contradict others: .* is '0' in line 1 and '1' in line 2"):
        read(f"x/c.mp4 0\n{spelt} 1\n")


def test_a_list_of_windows_powershell_is_read(read, tmp_path):
    (tmp_path / "data/wide.txt").write_bytes("x/c.mp4 0\r\ny/d.avi 1\r\n".encode("utf-16"))
    assert told(list_items(str(tmp_path / "data/wide.txt"), FILMS)) == [("x/c.mp4", "0"), ("y/d.avi", "1")]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x/c.avi", r"There is '.*data/x/c\.mp4', with another suffix or other capitals"),
        ("X/C.MP4", r"paths are relative to the list's own folder"),
        ("x/C.MP4", r"There is '.*data/x/c\.mp4', with another suffix or other capitals"),
        ("/home/ann/x/c.mp4", r"of another computer or place\. What follows is in .*data: take '/home/ann/' from"),
        ("C:\\films\\x\\c.mp4", r"of another computer or place\. What follows is in .*data: take 'C:/films/' from"),
        ("/home/ann/z.mp4", r"of another computer or place; write the paths that the files have here"),
    ],
)
def test_names_that_are_not_there_are_told_what_is(read, name, says):
    with pytest.raises(UserError, match=says):
        read(f"{name} 0\n")


def test_columns_behind_images_without_suffix_are_no_frames_of_a_film(read):
    """As the list of the Oxford pets: a name, then class, species and breed."""
    text = "#Image CLASS-ID SPECIES BREED\nframes/img_00001 1 1 2\n"
    with pytest.raises(UserError, match=r"cannot be seen what they are.*::columns=path\+label\+-\+-'"):
        read(text, suffixes=(".jpg",))
    items = read(text, asked="::columns=path+label+-+-", suffixes=(".jpg",))
    assert told(items) == [("frames/img_00001.jpg", "1")]
