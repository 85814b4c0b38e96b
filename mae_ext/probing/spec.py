"""What a probe is asked: one frozen spec for the command line, for programs and for probes during training."""

from dataclasses import dataclass
from functools import cached_property

from mae_ext.errors import UserError
from mae_ext.features.encoder import View
from mae_ext.features.shares import Pool
from mae_ext.features.windowed import Windows


@dataclass(frozen=True)
class ProbeSpec:
    """train: a labelled source to learn from. test: another to be judged on.

    folds: instead of `test`, judge on each of so many parts of `train` after learning from the others; a patient stays
    in one part.

    k: neighbours. pool: what becomes of a sample's tokens, or of windows that cover all of it. epochs: at most so many
    L-BFGS iterations of the linear probe, each over the whole training set. seed: of the held-out split, of folds, of
    bootstrap draws and of random weights. attentive: also the probe that attends over all tokens, which takes a second
    pass over both sources. mirror: learn from each sample and from its mirror image along the last axis, for which
    labels have to hold (the code of MAE's linear probe flips at random), and judge a sample by the mean of the votes
    for the two.

    batch_size: samples encoded at once. max_bad_fraction: as `FrozenEncoder.features` takes it. view: what the encoder
    is shown instead of a sample.

    Raises UserError: k or epochs below 1, pool "tokens", windows without a pool or with attentive, both or neither of
    test and folds.
    """

    train: str
    test: str | None = None
    folds: int | None = None
    k: int = 20
    pool: Pool | Windows = "mean"
    epochs: int = 100
    seed: int = 0
    attentive: bool = False
    mirror: bool = False
    batch_size: int = 64
    max_bad_fraction: float | None = None
    view: View | None = None

    def __post_init__(self) -> None:
        for key, value in (("k", self.k), ("epochs", self.epochs)):
            if value < 1:
                raise UserError(f"{key}={value}: expected at least 1")
        if self.pool == "tokens":
            raise UserError(
                "pool 'tokens': neighbours and the linear probe need one feature a sample; give attentive=True"
            )
        if isinstance(self.pool, Windows) and (self.pool.pool is None or self.attentive):
            raise UserError(
                f"pool '{self.pool}': a probe needs one feature a sample (pool mean, max or weighted), and the "
                "attentive one attends over the tokens of one window: leave it out"
            )
        if (self.test is None) == (self.folds is None):
            raise UserError(
                "expected either test (--test), a source to judge on, or folds (--folds), a number of parts of --train"
            )

    @cached_property
    def mirrored(self) -> View:
        """The mirror image, along the last axis, of what is shown."""
        view = self.view
        return lambda x: (x if view is None else view(x)).flip(-1)

    @property
    def views(self) -> tuple[View, ...]:
        """All that an encoder is shown for it, besides samples as they are."""
        return (*([] if self.view is None else [self.view]), self.mirrored)

    @property
    def mixes(self) -> bool:
        """Whether a feature's numbers are of several kinds and sizes, which neighbours must not be ruled by."""
        return (self.pool.tokens if isinstance(self.pool, Windows) else self.pool) == "moments"

    @property
    def sources(self) -> list[str]:
        return [self.train] if self.test is None else [self.train, self.test]
