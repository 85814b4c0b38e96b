"""The program that looks at many DICOM files: `index.py` starts several. It imports no torch and no NumPy.

Lines of JSON: first the folder and the key, then lists of names in it; an answer for each list, in order. Names are
never printed otherwise, and nothing goes to stderr.
"""

import json
import os
import signal
import sys

from mae_ext.data.sources.dicom.glance import Glance, glance

UNREADABLE = "files that cannot be read"


def look(root: str, names: list[str], secret: bytes) -> list[Glance]:
    glances = []
    for name in names:
        try:
            glances.append(glance(os.path.join(root, name), secret))  # noqa: PTH118 a name may begin with anything
        except OSError:
            glances.append(Glance(UNREADABLE, {}))
    return glances


def serve() -> None:
    """Requests on stdin until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    first = json.loads(sys.stdin.readline())
    root, secret = first["root"], first["secret"].encode("utf-8", "surrogateescape")
    for line in sys.stdin:
        answers = [(g.left, g.of, g.instance, g.numbers) for g in look(root, json.loads(line), secret)]
        sys.stdout.write(f"{json.dumps(answers)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
