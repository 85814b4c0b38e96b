"""Pictures of boxes: outlines where the boxes are, with names that stay inside."""

import numpy as np
import torch
from PIL import Image, ImageColor

from mae_ext.report.boxes import COLOURS, as_picture, draw_boxes

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
