"""Folders of VOC's label files, and one file as COCO has it."""

import json

import pytest


@pytest.fixture
def labels(tmp_path):
    """{stem: XML} -> the folder, as text."""

    def write(files):
        folder = tmp_path / "Annotations"
        folder.mkdir()
        for stem, text in files.items():
            (folder / f"{stem}.xml").parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{stem}.xml").write_text(text)
        return str(folder)

    return write


@pytest.fixture
def coco(tmp_path):
    """Overrides of the top level -> the file's path, as text."""

    def write(**overrides):
        root = {
            "images": [
                {"id": 7, "file_name": "a/one.jpg", "height": 80, "width": 100},
                {"id": 9, "file_name": "b/one.jpg", "height": 80, "width": 100},
            ],
            "annotations": [
                {"id": 1, "image_id": 9, "category_id": 5, "bbox": [10, 20, 30, 40]},
                {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 100, 80], "iscrowd": 1},
            ],
            "categories": [{"id": 5, "name": "cat"}, {"id": 3, "name": "zebra"}, {"id": 8, "name": "never seen"}],
        }
        path = tmp_path / "labels.json"
        path.write_text(json.dumps(root | overrides))
        return str(path)

    return write
