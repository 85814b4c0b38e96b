"""A labelled test of motion that needs no download: photos that pan, zoom and rotate, as short h264 clips.

    python scripts/studies/make_motion.py --out motion                         # 250 and 50 clips of each of 8 classes
    python scripts/studies/make_motion.py --out motion --train 32 --test 8     # fewer

Classes: left, right, up, down (the way the scene moves), in, out, clockwise, anticlockwise. DIR/train and DIR/test are
class folders, made from different photos of the scikit-image wheel.

A single frame says nothing of the class. Every clip looks at an endless plane of mirrored copies of its photo, from a
place and at an angle drawn uniformly, so pans and rotations leave each frame distributed as it was. Scales cannot be
uniform over everything: the middle frame's is drawn alike for all classes, over a factor of 3, and a zoom moves the
first and the last frame from it by at most a factor of 1.2. Every frame is encoded by itself, so that none holds traces
of motion.
"""

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

CLASSES = {
    # per unit of time from -1/2 to 1/2: view widths to the right and down that the scene moves, doublings, turns
    "left": (-1, 0, 0, 0), "right": (1, 0, 0, 0), "up": (0, -1, 0, 0), "down": (0, 1, 0, 0),
    "in": (0, 0, 1, 0), "out": (0, 0, -1, 0), "clockwise": (0, 0, 0, 1), "anticlockwise": (0, 0, 0, -1),
}  # fmt: skip
PHOTOS = {
    "train": (
        *("astronaut.png", "brick.png", "camera.png", "cell.png", "coins.png", "grass.png", "gravel.png"),
        *("ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
    ),
    "test": ("chelsea.png", "coffee.png", "hubble_deep_field.jpg", "moon.png"),
}
EDGE = 256  # pixels of a photo's short side
SUPERSAMPLE = 2


def photo(path: Path) -> Tensor:
    """(1, 3, H, W) in 0..1."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = EDGE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255


def frames(image: Tensor, kind: str, count: int, size: int, chance: np.random.Generator) -> Iterator[np.ndarray]:
    """(size, size, 3) uint8 each. The pose is that of the middle; the motion is even, and as fast as chance says."""
    height, width = image.shape[2:]
    x, y = chance.uniform(0, 2 * width), chance.uniform(0, 2 * height)  # the mirrored plane repeats after two photos
    step = np.exp(chance.uniform(np.log(0.7), np.log(2.1)))  # photo pixels per pixel of the view
    angle, speed = chance.uniform(0, 2 * np.pi), chance.uniform(0.5, 1.0)
    right, down, zoom, turn = CLASSES[kind]
    fine = size * SUPERSAMPLE
    centred = (torch.arange(fine, dtype=torch.float64) + 0.5) / SUPERSAMPLE - size / 2
    for t in np.linspace(-0.5, 0.5, count) * speed:
        here = step * 1.44 ** (-zoom * t)
        tilt = angle - 0.25 * np.pi * turn * t
        view_y, view_x = torch.meshgrid(
            centred - 0.6 * size * down * t, centred - 0.6 * size * right * t, indexing="ij"
        )
        at_x = x + here * (np.cos(tilt) * view_x - np.sin(tilt) * view_y)
        at_y = y + here * (np.sin(tilt) * view_x + np.cos(tilt) * view_y)
        grid = torch.stack([2 * at_x / width - 1, 2 * at_y / height - 1], dim=-1)[None].float()
        seen = grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        pixels = avg_pool2d(seen, SUPERSAMPLE)[0].permute(1, 2, 0)
        yield (pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def write(path: Path, clip: Iterator[np.ndarray], size: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", "g": "1", "preset": "veryfast"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv444p"
        for pixels in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=250, help="clips of each class")
    parser.add_argument("--test", type=int, default=50, help="clips of each class")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=64, help="pixels, an even number")
    parser.add_argument("--photos", type=Path, help="default: those inside the scikit-image wheel")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    spec = importlib.util.find_spec("skimage")
    if given.photos is None and (spec is None or not spec.submodule_search_locations):
        parser.error("scikit-image is not installed; give --photos DIR")
    folder = given.photos or Path(spec.submodule_search_locations[0]) / "data"  # type: ignore[union-attr, index]
    torch.set_num_threads(1)
    for part, number in (("train", given.train), ("test", given.test)):
        images = [photo(folder / name) for name in PHOTOS[part]]
        for label, kind in enumerate(CLASSES):
            (given.out / part / kind).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                chance = np.random.default_rng([given.seed, part == "test", label, i])
                image = images[int(chance.integers(len(images)))]
                clip = frames(image, kind, given.frames, given.size, chance)
                write(given.out / part / kind / f"{i:05d}.mp4", clip, given.size)
        print(f"{given.out / part}: {number} clips of each of {len(CLASSES)} classes, from {len(images)} photos")


if __name__ == "__main__":
    main()
