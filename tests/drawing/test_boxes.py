"""Pictures of boxes: outlines where the boxes are, with names that stay inside."""

import numpy as np
import torch
from PIL import Image, ImageColor

from mae_ext.drawing.boxes import COLOURS, as_picture, draw_boxes

NAMES = ("cell", "platelet")


def has(pixels, colour):
    return (pixels == np.array(ImageColor.getrgb(colour))).all(-1)


def test_an_outline_is_on_the_edge_of_its_box_in_the_colour_of_its_class():
    white = Image.new("RGB", (320, 240), "white")
    drawn = np.asarray(draw_boxes(white, torch.tensor([[60.0, 80, 160, 200]]), [1], NAMES, [0.9]))
    coloured = has(drawn, COLOURS[1])
    rows, columns = coloured[82:200].any(1).nonzero()[0], coloured[100:190].any(0).nonzero()[0]
    assert columns.min() == 60 and columns.max() == 159 and rows.max() + 82 == 199
    assert (drawn[100:190, 70:150] == 255).all()
    assert (np.asarray(white) == 255).all()  # the original


def test_a_name_at_the_edge_of_the_picture_stays_inside():
    corner = torch.tensor([[300.0, 0, 320, 12], [0, 0, 10, 10]])
    drawn = np.asarray(draw_boxes(Image.new("RGB", (320, 240), "white"), corner, [0, 0], NAMES, [0.5, 0.4]))
    rows, columns = has(drawn, COLOURS[0]).nonzero()
    assert columns.min() <= 1 and rows.min() <= 1 and (columns < 260).any() and columns.max() == 319


def test_without_boxes_the_picture_is_as_it_was():
    x = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawn = draw_boxes(as_picture(x), torch.zeros(0, 4), [], NAMES)
    assert (torch.from_numpy(np.array(drawn)).permute(2, 0, 1) == x).all()


def test_grey_and_float_images_become_pictures():
    assert as_picture(torch.full((1, 4, 5), 1.5)).getpixel((0, 0)) == (255, 255, 255)
    assert as_picture(torch.tensor([0.0, 0.5, 1, 0.2])[:, None, None].expand(4, 4, 5)).getpixel((0, 0)) == (0, 128, 255)


def test_the_best_of_two_boxes_lies_over_the_other_and_each_name_has_its_score():
    picture = Image.new("RGB", (480, 360), "white")
    boxes = torch.tensor([[100.0, 100, 300, 300], [100.0, 100, 300, 300]])
    drawn = np.asarray(draw_boxes(picture, boxes, [1, 0], NAMES, [0.9, 0.4]))
    assert has(drawn, COLOURS[1])[200, 100] and has(drawn, COLOURS[1])[120:300, 299].all()
    assert not has(drawn, COLOURS[0])[110:].any()
    # The name: a filled field in the colour of the class, above the box, as wide as what it says.
    alone = [np.asarray(draw_boxes(picture, boxes[:1], [label], NAMES, scores)) for label, scores in
             ((0, [0.5]), (1, [0.5]), (1, []))]  # fmt: skip
    fields = [int(has(one, COLOURS[label])[92].sum()) for one, label in zip(alone, (0, 1, 1), strict=True)]
    assert fields[0] < fields[1] and fields[2] < fields[1]  # "cell 0.50", "platelet 0.50", "platelet"


def test_lines_are_as_thick_as_the_picture_is_large():
    for side, thick in ((240, 2), (960, 4), (2400, 10)):
        box = torch.tensor([[side / 4, side / 4, side * 3 / 4, side * 3 / 4]])
        drawn = np.asarray(draw_boxes(Image.new("RGB", (side, side), "white"), box, [0], NAMES))
        column = has(drawn, COLOURS[0])[side // 2, : side // 2]
        assert column.sum() == thick and column.nonzero()[0].min() == side // 4
        assert (drawn[side // 2, side // 4 + thick] == 0).all()  # a dark rim within


def test_the_first_three_of_more_channels_are_the_picture():
    x = torch.stack([torch.full((2, 2), level, dtype=torch.uint8) for level in (10, 20, 30, 40)])
    assert as_picture(x).getpixel((0, 0)) == (10, 20, 30)
    assert as_picture(x[:2]).getpixel((0, 0)) == (10, 10, 10)
