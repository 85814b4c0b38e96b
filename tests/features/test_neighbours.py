"""Neighbours are the nearest by cosine and never the query; queries come from every class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.errors import UserError
from mae_ext.features.encoder import load_encoder
from mae_ext.features.neighbours import OTHER, SAME, _panel, _title, choose, draw_neighbours, nearest


def test_neighbours_are_the_nearest_by_cosine_and_not_the_query_itself():
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    similarity, rows = nearest(x, [4, 9], 5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for query, found, near in zip((4, 9), rows.tolist(), similarity, strict=True):
        order = [i for i in np.argsort(-unit @ unit[query]) if i != query][:5]
        assert found == order
        np.testing.assert_allclose(near.numpy(), (unit @ unit[query])[order], atol=1e-5)
    assert torch.equal(nearest(x * 7, [4, 9], 5)[1], rows)


def test_queries_are_a_function_of_the_seed_and_go_round_the_classes():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 10 + [-1] * 5)
    chosen = choose(labels, 68, 6)
    assert sorted(labels[chosen].tolist()) == [-1, 0, 0, 1, 1, 2]
    assert chosen == choose(labels, 68, 6) != choose(labels, 68, 6, seed=1)
    assert len(choose(None, 4, 6)) == 4


def test_a_picture_has_a_row_for_each_query_and_bars_in_the_colour_of_the_class(make_run, striped, tmp_path):
    encoder = load_encoder(make_run())
    features = encoder.features(str(striped / "test"))
    path = draw_neighbours(encoder, features, 4, tmp_path / "near", queries=3)
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    found = {colour: int((pixels == colour).all(1).sum()) for colour in (SAME, OTHER)}
    assert path.name == "near.png" and sum(found.values()) >= 3 * 4 * 160 * 5
    with pytest.raises(UserError, match="neighbours=12: expected 1 up to 11"):
        draw_neighbours(encoder, features, 12, tmp_path / "near")


def test_without_labels_rows_are_named_after_files_and_have_no_bars(make_run, striped, tmp_path):
    encoder = load_encoder(make_run())
    features = encoder.features(str(striped / "test" / "down"))
    path = draw_neighbours(encoder, features, 2, tmp_path / "near")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert not (pixels == SAME).all(1).any() and not (pixels == OTHER).all(1).any()


def test_a_row_begins_with_the_query_and_names_class_and_cosine_of_each_neighbour(make_run, striped):
    encoder = load_encoder(make_run())
    features = encoder.features(str(striped / "test"))
    panel = _panel(encoder, features, [5, 0, 6], [1.0, 0.876, 0.5])
    names = [features.classes[features.labels[i]] for i in (5, 0, 6)]
    assert [title for title, _ in panel.columns] == [f"query: {names[0]}", f"{names[1]} 0.88", f"{names[2]} 0.50"]
    assert panel.bars == (None, *(SAME if name == names[0] else OTHER for name in names[1:]))
    shown = [outcome.x.float() / 255 for outcome in encoder.decode(encoder.items(str(striped / "test")))]
    for (_, plane), i in zip(panel.columns, (5, 0, 6), strict=True):
        torch.testing.assert_close(plane, shown[i])


def test_of_samples_with_several_classes_all_are_named(make_run, striped):
    encoder = load_encoder(make_run())
    features = encoder.features(str(striped / "test"))
    marks = np.zeros((12, 3), np.int8)
    marks[2] = (1, 0, 1)
    found = replace(features, labels=None, classes=("a", "b", "c"), marks=marks)
    assert (_title(found, 2, None), _title(found, 2, 0.25), _title(found, 3, 1.0)) == (
        "query: a|c",
        "a|c 0.25",
        " 1.00",
    )
