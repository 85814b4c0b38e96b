"""Pictures of boxes: what was found where, over the image that it was found in."""

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mae_ext.model.units import in_units

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""For classes, in turn; told apart by colour-blind readers too (Okabe and Ito, Color Universal Design, 2008)."""

LINE, TEXT = 1 / 240, 1 / 48
"""Of the picture's longer side: the width of a line, at least 2 pixels, and the height of letters, at least 10."""


def legible(text: str) -> str:
    """Text that fonts can draw: a line break, or a byte of a name that is no text, is shown as "?"."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def as_picture(x: Tensor) -> Image.Image:
    """(C, H, W), uint8 or float in 0..1 -> an RGB picture of the first three channels, or of the first in grey."""
    pixels = in_units(x).clamp(0, 1).mul(255).round().byte()
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
    return Image.fromarray(np.ascontiguousarray(rearrange(pixels, "c h w -> h w c").numpy()))


def draw_boxes(
    picture: Image.Image, boxes: Tensor, labels: Sequence[int], names: Sequence[str], scores: Sequence[float] = ()
) -> Image.Image:
    """boxes: (n, 4) in pixels of the picture; names: of the classes, by label. -> A copy with outlines and names.

    Names lie over all outlines, the best of detections over the others; at the upper edge of their box, outside it
    where there is room.
    """
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    longer = max(drawn.size)
    width, font = max(2, round(longer * LINE)), ImageFont.load_default(max(10, round(longer * TEXT)))
    last_first = list(reversed(range(len(boxes))))
    edges = [tuple(round(v) for v in box) for box in boxes.tolist()]
    for i in last_first:
        left, top, right, bottom = edges[i]
        within = (left, top, max(left, right - 1), max(top, bottom - 1))
        pen.rectangle(within, outline="black", width=width + 1)  # a dark rim, for bright pictures
        pen.rectangle(within, outline=COLOURS[labels[i] % len(COLOURS)], width=width)
    names = [legible(name) for name in names]
    for i in last_first:
        left, top, _, _ = edges[i]
        text = f"{names[labels[i]]} {scores[i]:.2f}" if scores else names[labels[i]]
        x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
        wide, high = x1 - x0 + 4, y1 - y0 + 4
        x, y = min(max(0, left), max(0, drawn.width - wide)), top - high if top >= high else max(0, top)
        pen.rectangle((x, y, x + wide, y + high), fill=COLOURS[labels[i] % len(COLOURS)], outline="black")
        pen.text((x + 2 - x0, y + 2 - y0), text, font=font, fill="black")
    return drawn
