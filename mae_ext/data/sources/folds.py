"""Cross-validation: which fold a sample belongs to, so that a patient is in one and classes are in all."""

from collections import Counter
from collections.abc import Sequence

import torch

from mae_ext.rng import rng


def deal(groups: Sequence[int | str], kinds: Sequence[int | str], count: int, seed: int) -> list[int]:
    """(n) groups (a patient's samples share one) and (n) kinds (classes) -> (n) folds in 0..count-1.

    A group is never divided. Every kind is spread over the folds as evenly as its groups allow, a group counting for
    the kind of most of its samples, and then sizes are. A function of (groups, kinds, seed), in whatever order they
    come. Raises ValueError for fewer groups than folds.
    """
    members: dict[int | str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    if not 2 <= count <= len(members):
        raise ValueError(f"expected 2 to {len(members)} folds, not {count}")
    kind = {g: min(Counter(kinds[row] for row in rows).items(), key=_most)[0] for g, rows in members.items()}
    fold, sizes = [0] * len(groups), [0] * count
    # Rare kinds first: the others can still even out the sizes.
    for label, _ in sorted(Counter(kind.values()).items(), key=lambda item: (item[1], item[0])):
        own = sorted(g for g in members if kind[g] == label)
        order = torch.randperm(len(own), generator=rng(seed, "folds", label)).tolist()
        of_kind = [0] * count
        for g in sorted((own[i] for i in order), key=lambda g: -len(members[g])):
            place = min(range(count), key=lambda f: (of_kind[f], sizes[f]))
            for row in members[g]:
                fold[row] = place
            of_kind[place] += len(members[g])
            sizes[place] += len(members[g])
    return fold


def _most(item: tuple[int | str, int]) -> tuple[int, int | str]:
    return -item[1], item[0]
