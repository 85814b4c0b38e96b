"""Make the values of the wide net again, on purpose: `scripts/golden_rest --why "masks keep one token more" [AREA...]`.

Keeps the values of the areas that changed, prints old and new, and adds the reason to rest_kept/CHANGES.md. Without
--why it refuses: a value that changed and nobody knows why is a fault.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from golden import rest, rest_child
from golden.make import commit

SHOWN = 12
"""Lines of an area; the rest is counted."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/golden_rest", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("areas", nargs="*", metavar="AREA", help="all, if none is named")
    parser.add_argument("--why", default="", help="why the values are to change, in a sentence")
    args = parser.parse_args(arguments)
    why = " ".join(args.why.split())
    if not why:
        print('scripts/golden_rest: say why the values are to change: --why "..."; nothing was run', file=sys.stderr)
        return 2
    areas = rest.load()
    if unknown := [name for name in args.areas if name not in areas]:
        print(f"scripts/golden_rest: no area {', '.join(unknown)} (there are: {', '.join(areas)})", file=sys.stderr)
        return 2
    changed = []
    for name, values in rest_child.run(args.areas or list(areas)).items():
        lines = rest.differences(name, rest.kept(name) or {}, values)
        if lines:
            more = [f"  and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
            print(f"{name}: {len(lines)} of {len(values)} values", *lines[:SHOWN], *more, sep="\n  ")
            rest.write(name, values)
            changed.append(name)
    for path in [] if args.areas else sorted(rest.KEPT.glob("*.json")):
        if path.stem not in areas:
            path.unlink()
            changed.append(path.stem)
    if changed:
        with (rest.KEPT / "CHANGES.md").open("a", encoding="utf-8") as log:
            log.write(f"- {datetime.now(UTC):%Y-%m-%d}, at {commit()}: {why} ({', '.join(changed)})\n")
    else:
        print("every value is as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
