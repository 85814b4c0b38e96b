"""Make the values of the wide net again: `scripts/checks/golden_rest --why "masks keep one token more" [AREA...]`.

Keeps the values of the areas that changed, prints old and new, and adds the reason to rest_kept/CHANGES.md. Without
--why it refuses: a value that changed and nobody knows why is a fault.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from golden import rest, rest_child
from golden.make import asked, commit, orphans

SHOWN = 12
"""Lines of an area; the rest is counted."""


def main(arguments: Sequence[str] | None = None) -> int:
    asked_for = asked("scripts/checks/golden_rest", __doc__, "area", lambda: list(rest.load()), arguments)
    if asked_for is None:
        return 2
    known, named, why = asked_for
    changed = []
    for name, values in rest_child.run(named or known).items():
        lines = rest.differences(name, rest.kept(name) or {}, values)
        if lines:
            more = [f"  and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
            print(f"{name}: {len(lines)} of {len(values)} values", *lines[:SHOWN], *more, sep="\n  ")
            rest.write(name, values)
            changed.append(name)
    for name in orphans(rest.KEPT, known, named):
        (rest.KEPT / f"{name}.json").unlink()
        changed.append(name)
    if changed:
        with (rest.KEPT / "CHANGES.md").open("a", encoding="utf-8") as log:
            log.write(f"- {datetime.now(UTC):%Y-%m-%d}, at {commit()}: {why} ({', '.join(changed)})\n")
    else:
        print("every value is as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
