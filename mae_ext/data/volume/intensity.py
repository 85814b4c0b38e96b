"""From a scanner's units to the model's: windows, z-scores, percentiles are one map, clip((x - shift) / scale)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Levels:
    """For each output channel: which stored channel it is made of, shift and scale in its units, and where to clip."""

    channel: tuple[int, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    low: float = -np.inf
    high: float = np.inf

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(C, ...) in the scan's units -> (channels, ...)."""
        across = (-1, *[1] * (x.ndim - 1))
        shift, scale = (np.array(v, dtype=np.float32).reshape(across) for v in (self.shift, self.scale))
        each = len(x) == 1 or self.channel == tuple(range(len(x)))  # one serves all, or each its own
        y: NDArray[np.float32] = (x if each else x[list(self.channel)]) - shift
        y /= scale
        return np.clip(y, self.low, self.high, out=y, dtype=np.float32)


@dataclass(frozen=True)
class Foreground:
    """What an intensity rule may look at, one entry a channel. values: of some of its voxels. ends: the least and the
    most of the whole scan, air and all, which are never the same."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    values: tuple[NDArray[np.float32], ...]
    ends: tuple[tuple[float, float], ...]


class Intensity(Protocol):
    def sources(self, channels: int) -> int:
        """Stored channels that make `channels` of the model's. Raises ValueError when none do."""
        ...

    def fit(self, channels: int, foreground: Callable[[], Foreground]) -> Levels:
        """channels: how many are stored. Measuring the foreground takes a pass over the scan."""
        ...


@dataclass(frozen=True)
class Window:
    """CT: [low, high] in Hounsfield units becomes 0..1, clipped. Several windows of one scan are several channels."""

    windows: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", tuple((float(a), float(b)) for a, b in self.windows))
        if not self.windows:
            raise ValueError("intensity: window: give windows: [[low, high], ...] in Hounsfield units")
        for low, high in self.windows:
            if not low < high:
                raise ValueError(f"intensity: window [{low:g}, {high:g}]: expected low < high")

    def sources(self, channels: int) -> int:
        if len(self.windows) == channels:
            return 1
        if len(self.windows) == 1:
            return channels
        raise ValueError(f"intensity: {len(self.windows)} windows make {len(self.windows)} channels, not {channels}")

    def fit(self, channels: int, foreground: Callable[[], Foreground]) -> Levels:
        several = len(self.windows) > 1
        windows = self.windows if several else self.windows * channels
        channel = (0,) * len(windows) if several else tuple(range(len(windows)))
        return Levels(channel, tuple(a for a, _ in windows), tuple(b - a for a, b in windows), 0.0, 1.0)


@dataclass(frozen=True)
class ZScore:
    """MRI: mean 0 and standard deviation 1 over the foreground, channel by channel. clip: in standard deviations."""

    clip: float | None = 10.0

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"intensity: zscore: clip={self.clip} must be above 0")

    def sources(self, channels: int) -> int:
        return channels

    def fit(self, channels: int, foreground: Callable[[], Foreground]) -> Levels:
        values = foreground()
        scale = tuple(s if s > 0 else 1.0 for s in values.std)
        bound = np.inf if self.clip is None else self.clip
        return Levels(tuple(range(channels)), values.mean, scale, -bound, bound)


@dataclass(frozen=True)
class Percentile:
    """MRI: the low and the high percentile of the foreground become 0 and 1, clipped, channel by channel.

    Where they are one value, as inside of a mask or of a binary shape, that would make everything 0: the least and
    the most of the whole scan take their place.
    """

    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(
                f"intensity: percentile: low={self.low}, high={self.high}: expected 0 <= low < high <= 100"
            )

    def sources(self, channels: int) -> int:
        return channels

    def fit(self, channels: int, foreground: Callable[[], Foreground]) -> Levels:
        seen = foreground()
        bounds = [np.percentile(v, [self.low, self.high]) for v in seen.values]
        taken = [(float(a), float(b)) if b > a else ends for (a, b), ends in zip(bounds, seen.ends, strict=True)]
        return Levels(tuple(range(len(taken))), tuple(a for a, _ in taken), tuple(b - a for a, b in taken), 0.0, 1.0)


@dataclass(frozen=True)
class AsStored:
    """The scan's own units, for arrays that were prepared elsewhere."""

    def sources(self, channels: int) -> int:
        return channels

    def fit(self, channels: int, foreground: Callable[[], Foreground]) -> Levels:
        return Levels(tuple(range(channels)), (0.0,) * channels, (1.0,) * channels)


_KINDS: dict[str, type[Any]] = {"window": Window, "zscore": ZScore, "percentile": Percentile, "none": AsStored}


def build_intensity(spec: str | Mapping[str, Any]) -> Intensity:
    """{name: window, windows: [[-175, 250]]}, or just a name. Raises ValueError naming what is wrong."""
    values = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = values.pop("name", None)
    if name not in _KINDS:
        raise ValueError(f"intensity '{name}': expected one of {', '.join(_KINDS)}")
    try:
        made: Intensity = _KINDS[name](**values)
    except TypeError as error:
        raise ValueError(f"intensity '{name}': {error}") from error
    return made


def check_body(body: Any) -> float | str | None:
    """None, a threshold in the scan's units, "otsu" or "nonzero". Raises ValueError."""
    if body is None or body in ("otsu", "nonzero"):
        return body  # type: ignore[no-any-return]
    if isinstance(body, int | float) and not isinstance(body, bool) and np.isfinite(body):
        return float(body)
    raise ValueError(f"body={body!r}: expected a threshold in the scan's units (CT: -500), 'otsu', 'nonzero' or null")


def check_lengths(name: str, values: Sequence[float] | None, count: int = 3) -> tuple[float, ...] | None:
    """`count` positive numbers, or None. Raises ValueError."""
    if values is None:
        return None
    if len(values) != count or not all(v > 0 for v in values):
        raise ValueError(f"{name}={list(values)}: expected {count} positive numbers, in mm along D, H, W")
    return tuple(float(v) for v in values)
