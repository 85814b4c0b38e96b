"""Which channels of a source are taken, in which order: by number, or by the names that its file gives them."""

from collections.abc import Sequence

from mae_ext.errors import BadSample

Picks = tuple[int | str, ...]


def check_picks(bands: Sequence[int | str] | None, count: int, what: str = "channels") -> Picks | None:
    """bands of a reader, whose model wants `count`. Raises ValueError."""
    if bands is None:
        return None
    if not isinstance(bands, list | tuple) or not all(
        (type(b) is int and b >= 0) or (isinstance(b, str) and b) for b in bands
    ):
        raise ValueError(f"bands={bands}: expected a list of numbers from 0, such as [3, 2, 1], or of names")
    if len(bands) != count:
        raise ValueError(f"bands={list(bands)} are {len(bands)}, and {what}={count}")
    return tuple(bands)


def picked(address: str, picks: Picks, held: int, names: Sequence[str], what: str = "") -> list[int]:
    """Numbers of the channels that are picked, of `held` with these names: all of them, or none where none has any.

    A name is compared as it stands, then without regard to capitals and spaces around it. what: how a message calls
    what there is. Raises BadSample, "channels".
    """
    what = what or f"{held} channels"
    numbers = []
    for pick in picks:
        if isinstance(pick, int):
            if pick >= held:
                detail = f"{what}, which are bands 0 to {held - 1}, and bands={list(picks)} are asked for"
                raise BadSample(address, "channels", detail)
            numbers.append(pick)
            continue
        exact = [i for i, name in enumerate(names) if name == pick]
        alike = exact or [i for i, name in enumerate(names) if name.strip().casefold() == pick.strip().casefold()]
        if len(alike) != 1:
            there_are = ", ".join(names) if any(names) else f"none; take them by number, 0 to {held - 1}"
            why = "several channels have" if alike else "no channel has"
            raise BadSample(address, "channels", f"{what}: {why} the name '{pick}' (names: {there_are})")
        numbers += alike
    return numbers
