"""All rooms: of each file here that is called *_rooms.py."""

from importlib import import_module
from pathlib import Path


def load() -> None:
    for path in sorted(Path(__file__).parent.glob("*_rooms.py")):
        import_module(f"recorded.{path.stem}")
