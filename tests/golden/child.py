"""`python -m golden.child OUT CASE...`: the values of the cases and what made them, written to OUT as JSON.

`make.py` starts it, in an empty folder and with the environment fixed.
"""

import json
import sys
from pathlib import Path

from golden import inputs
from golden.cases import made
from golden.environment import made_with


def main(out: str, *names: str) -> None:
    inputs.make(Path("inputs"))
    found = {name: made(name) for name in names}
    Path(out).write_text(json.dumps({"made_with": made_with(), "values": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
