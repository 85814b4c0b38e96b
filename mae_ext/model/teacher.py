"""What a frozen encoder says of the whole picture, as a target for hidden tokens (after data2vec, 2202.03555)."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mae_ext.errors import UserError
from mae_ext.model.beside import Beside
from mae_ext.model.target import Normalize

Teaching = Callable[[Tensor, Tensor | None], Tensor]
"""(B, C, *S) as the student normalises it, (B, n) spacing | None -> (B, D, *grid of the student)."""


class Features(nn.Module):
    """Part of a target: the tokens of a teacher, each with mean 0 and variance 1.

    teacher: handed in by who trains. It is no part of the model: neither its weights nor where they are.
    """

    def __init__(self, width: int | None, loss: Literal["smooth_l1", "mse"]) -> None:
        super().__init__()
        self.width, self.loss = width, loss
        self.teacher: Teaching | None = None

    @property
    def pix(self) -> int:
        """Raises UserError before the teacher was looked at."""
        if self.width is None:
            raise UserError("the width of the teacher is not known: set target.width, as a run does when it begins")
        return self.width

    def prepare(self, x: Tensor, valid: Tensor | None, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) -> (B, width, *grid)."""
        if self.teacher is None:
            raise UserError("this model has no teacher at hand, which only its training has: its loss cannot be taken")
        return self.teacher(x, spacing)

    def forward(self, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, P, width) -> (B, P, width): layer-normed, without scale and shift."""
        return F.layer_norm(values.float(), values.shape[-1:])

    def error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """(B, P, width), (B, P, width) -> (B, P, width), not yet averaged."""
        if self.loss == "mse":
            return (predicted - wanted).square()
        return F.smooth_l1_loss(predicted, wanted, reduction="none")


class TeacherTarget(Beside):
    """The tokens that a frozen encoder has of the whole picture, alone or beside the pixels of a patch.

    of: a run, a checkpoint, or weights of another program, as `--init` takes them; a new run needs it, and each that
    goes on, with the same weights. It sees samples at the size that it was made for, and its map of tokens is brought
    to the student's grid where that is another (linearly; 1 to 3 axes). loss: "smooth_l1" (as far as 1 a square) or
    "mse", of layer-normed tokens. weight, pixels: what either weighs; with pixels=0, the default, there is no picture
    of what is predicted. normalize, floor: of the pixels, as in `PixelTarget`. width, digest: of the teacher; a run
    writes them into its config when it begins, so that its model needs no teacher to be built.

    >>> from mae_ext.model.teacher import TeacherTarget
    >>> TeacherTarget(patch=(4, 4), channels=3, of="runs/teacher", pixels=1, width=192).pix
    240
    """

    def __init__(
        self, patch: tuple[int, ...], channels: int, of: str, loss: Literal["smooth_l1", "mse"] = "smooth_l1",
        weight: float = 1.0, pixels: float = 0.0, normalize: Normalize = "mae", floor: float = 0.0,
        width: int | None = None, digest: str | None = None,
    ) -> None:  # fmt: skip
        if loss not in ("smooth_l1", "mse"):
            raise ValueError(f"loss={loss!r} must be smooth_l1 or mse")
        super().__init__(patch, channels, Features(width, loss), pixels, weight, normalize, floor)
        self.digest = digest

    @property
    def features(self) -> Features:
        assert isinstance(self.other, Features)
        return self.other
