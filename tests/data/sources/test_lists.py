"""Lists as people keep them: quoted fields, splits, patients, several labels; and index files from real data sets."""

from pathlib import Path

import pytest

from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import UserError

JPG = (".jpg",)
REAL = Path(__file__).parents[4] / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data of ../shared/data are not here")


@pytest.fixture
def write(tmp_path: Path):
    """Write an index.csv beside four files, and read it."""
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())

    def go(text: str, asked: str = "") -> Items:
        (tmp_path / "index.csv").write_text(text)
        return list_items(f"{tmp_path}/index.csv{asked}", JPG)

    return go


def names(items: Items) -> list[str]:
    return [Path(address).name for address in items.addresses]


SPLIT = 'path,label,patient,split\na.jpg,"cat, small",p1,train\nb.jpg,dog,p1,train\nc.jpg,dog,p2,test\nd.jpg,,p3,test\n'


def test_a_split_is_chosen_by_its_name_after_two_colons(write):
    train, test = write(SPLIT, "::train"), write(SPLIT, "::split=test")
    assert (names(train), names(test)) == (["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"])
    assert train.classes == ("cat, small", "dog") and train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [0, -1]
    assert list(train.patients) == ["p1", "p1"]
    assert len(write(SPLIT)) == 4


def test_a_split_that_no_row_has_is_refused_with_those_there_are(write):
    with pytest.raises(UserError, match=r"no row has the split 'val'; there are: 'test', 'train'"):
        write(SPLIT, "::val")
    with pytest.raises(UserError, match=r"columns split, not \['path', 'label'\]"):
        write("path,label\na.jpg,1\n", "::train")


def test_which_columns_are_meant_can_be_said(write):
    text = "where,kind,who\na.jpg,x,1\nb.jpg,y,2\n"
    items = write(text, "::path=where,label=kind,patient=who")
    assert items.classes == ("x", "y") and list(items.patients) == ["1", "2"]
    with pytest.raises(UserError, match=r"expected .*split.*path=.*label="):
        write(text, "::path=where,lable=kind")
    with pytest.raises(UserError, match=r"columns sort, not \['where', 'kind', 'who'\]"):
        write(text, "::path=where,label=sort")


def test_several_classes_of_a_sample_stand_between_bars(write):
    items = write("path,label\na.jpg,edema|mass\nb.jpg,mass\nc.jpg,|\nd.jpg,\n")
    assert items.labels is None and items.classes == ("edema", "mass")
    assert items.marks.tolist() == [[1, 1], [0, 1], [0, 0], [-1, -1]]


def test_several_columns_of_zero_and_one_are_classes_too(write):
    text = "path,edema,mass,age\na.jpg,1,0,40\nb.jpg,0,,50\nc.jpg,1.0,1,60\n"
    items = write(text, "::label=edema+mass")
    assert items.classes == ("edema", "mass")
    assert items.marks.tolist() == [[1, 0], [0, -1], [1, 1]]
    with pytest.raises(UserError, match=r"line 2: age is '40'"):
        write(text, "::label=edema+age")


def test_names_are_looked_for_in_the_images_folder_too_and_ids_get_the_readers_suffix(write, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x7.jpg").write_bytes(b"x")
    assert names(write("file\nx7.jpg\n")) == ["x7.jpg"]
    found = write("id,full_id\nx7,x7000\n")
    assert list(found.addresses) == [str(tmp_path / "images" / "x7.jpg")]
    with pytest.raises(UserError, match=r"line 2 means .*/x8\.jpg"):
        write("id\nx8\n")


@real
@pytest.mark.parametrize(
    ("index", "asked", "suffix", "count", "classes"),
    [
        ("video/lung_ultrasound", "::train", (".mov", ".mp4", ".mpeg"), 21, ("covid", "pneumonia", "regular", "viral")),
        ("video/lung_ultrasound", "::label=b_lines+effusion", (".mov", ".mp4", ".mpeg"), 44, ("b_lines", "effusion")),
        ("volume/hippocampus", "::train", (".nii.gz",), 217, ()),
        ("image/dsb2018_nuclei", "::label=stain_heuristic", (".png",), 300, ("fluorescence", "purple_he")),
    ],
)
def test_real_index_files_are_read_as_they_are(index, asked, suffix, count, classes):
    items = list_items(f"{REAL}/{index}/index.csv{asked}", suffix)
    assert (len(items), items.classes) == (count, classes)
    assert all(Path(address).is_file() for address in items.addresses)


@real
def test_the_split_of_the_ultrasound_clips_has_no_patient_on_both_sides():
    train, test = (list_items(f"{REAL}/video/lung_ultrasound/index.csv::{s}", (".mov",)) for s in ("train", "test"))
    assert train.patients is not None and test.patients is not None
    assert len(set(train.patients)) == 7 and not set(train.patients) & set(test.patients)


def test_blanks_around_the_names_of_columns_cost_no_label(write):
    items = write("path , label\na.jpg, cat\nb.jpg, dog\n")
    assert (names(items), items.classes) == (["a.jpg", "b.jpg"], ("cat", "dog"))


def test_names_without_suffix_in_a_column_that_is_named_get_the_readers(write):
    """As ISIC has them: image,MEL,NV."""
    items = write("image,MEL,NV\na,1.0,0.0\nb,0.0,1.0\n", "::path=image,label=MEL+NV")
    assert names(items) == ["a.jpg", "b.jpg"] and items.marks.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(UserError, match=r"where another one names the files, type '.*::path=COLUMN'"):
        write("image,MEL,NV\na,1.0,0.0\n")


def test_two_labels_of_one_file_are_refused_however_it_is_spelt(write):
    with pytest.raises(UserError, match=r"1 rows contradict others: \./a\.jpg is 'cat' in line 2 and 'dog' in line 3"):
        write("path,label\na.jpg,cat\n./a.jpg,dog\n")
