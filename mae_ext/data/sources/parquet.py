"""Parquet with a column of encoded images: bytes, or Hugging Face's struct of bytes and path. Read by pyarrow.

`x.parquet::label=finding,patient=who,split=test` says as of lists which columns are meant, `path=` that of the images.
Listing reads the footers of the files, and of their columns those that are asked for; `cells.py` reads a cell.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_ext.data.sources.cells import one_line, opened, version_of
from mae_ext.data.sources.rows import Listed, check_options, listed_of
from mae_ext.errors import UserError

OPTIONS = ("split", "path", "label", "patient", "fold", "rest")
IMAGES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "bytes")
"""What a column of images is called, the first of them that there is, where several columns hold bytes."""


def list_parquet(files: Sequence[str], choice: str | None, where: str) -> Listed:
    """All rows of the files, one after the other. Raises UserError."""
    options = check_options(choice, OPTIONS, where)
    rows: list[tuple[int, dict[str, str]]] = []
    header: list[str] = []
    for file in files:
        column, columns, texts = _texts(file, options, where)
        if header and header != [column, *columns]:
            raise UserError(
                f"{where}: '{file}' has other columns ({', '.join([column, *columns])}) than the files before it "
                f"({', '.join(header)}); give them apart"
            )
        header = [column, *columns]
        count = _parquet(file, where).metadata.num_rows
        rows += [
            (row + 1, {column: f"{file}::{column}::{row}", **{c: texts[c][row] for c in columns}})
            for row in range(count)
        ]
    return listed_of(header, rows, header[0], options, where, lambda _, names: names)


def _texts(file: str, options: dict[str, str], where: str) -> tuple[str, list[str], dict[str, list[str]]]:
    """The column of images, the others that hold text or numbers and are asked for, and their texts."""
    parquet = _parquet(file, where)
    schema = parquet.schema_arrow
    column = _image_column(schema, options.get("path"), f"{where}: '{file}'")
    asked_for = {*options.get("label", "label").split("+"), options.get("patient", "patient"), "split"}
    columns = [name for name in schema.names if name != column and name in asked_for]
    names = _class_names(schema)
    try:
        table = parquet.read(columns=columns, use_threads=False) if columns else None
        texts = {c: [_text(v, names.get(c)) for v in table.column(c).to_pylist()] for c in columns} if table else {}
    except Exception as error:  # what pyarrow raises over damage is of many kinds
        raise UserError(f"{where}: '{file}': damaged: {one_line(error)}") from error
    return column, columns, texts


def _image_column(schema: Any, wanted: str | None, where: str) -> str:
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def is_struct_of_it(kind: Any) -> bool:
        return bool(pa.types.is_struct(kind)) and any(part.name == "bytes" and holds_bytes(part.type) for part in kind)

    held = [field.name for field in schema if holds_bytes(field.type) or is_struct_of_it(field.type)]
    if wanted is not None:
        if wanted not in held:
            raise UserError(f"{where}: no column '{wanted}' of bytes (of bytes: {', '.join(held) or 'none'})")
        return wanted
    known = [name for name in IMAGES if name in held]
    if not held or (len(held) > 1 and not known):
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)[:500]
        what = "no column holds encoded images" if not held else f"several columns hold bytes: {', '.join(held)}"
        raise UserError(
            f"{where}: {what}; expected bytes, or a struct of bytes and path; name one with ::path=COLUMN ({columns})"
        )
    return held[0] if len(held) == 1 else known[0]


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of classes, by column, as `datasets` writes them beside the schema."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {c: list(map(str, f["names"])) for c, f in features.items() if isinstance(f, dict) and "names" in f}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _text(value: Any, names: list[str] | None) -> str:
    """As a cell of a list: several classes with a bar between them, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "|".join(_text(v, names) for v in value) or "|"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else ""  # -1: not known, as `datasets` has it
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _parquet(file: str, where: str) -> Any:
    try:
        return opened(os.getpid(), file, version_of(file))
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{where}: no such file: '{file}'") from error
        raise UserError(f"{where}: '{file}': cannot be read: {one_line(error)}") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: '{file}': damaged, or no Parquet: {one_line(error)}") from error


def of_one_split(files: list[str], where: str) -> list[str]:
    """Raises UserError where files are named as parts of different splits, as those on Hugging Face's hub are."""
    splits: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[-_.]", Path(file).name.lower()) + [part.lower() for part in Path(file).parts[-2:-1]]
        split = next((w for w in words if w in ("train", "training", "test", "validation", "valid", "val", "dev")), "")
        splits.setdefault(split, []).append(file)
    if len(splits) > 1:
        kinds = ", ".join(f"{len(some_of)} of {split or 'no'} split" for split, some_of in sorted(splits.items()))
        first = Path(splits[max(splits)][0])
        pattern = str(first) if len(splits[max(splits)]) == 1 else f"{first.parent}/{max(splits)}*.parquet"
        raise UserError(
            f"{where}: Parquet files of several splits ({kinds}); name those that are meant, as '{pattern}'"
        )
    return files
