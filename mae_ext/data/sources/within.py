"""What a path means that names a file or folder of arrays: .npz, HDF5 or Zarr, or an array inside one."""

from pathlib import Path

from mae_ext.data.sources import archive, hdf5
from mae_ext.data.sources.folder import ZARR
from mae_ext.errors import UserError

Listing = tuple[list[str], list[str | None] | None]


def list_arrays(path: str, suffixes: tuple[str, ...], where: str) -> Listing | None:
    """(addresses, labels) of what is named; None of what is no such path, or is a file like any other.

    suffixes: of the reader. One that takes a whole file of arrays as a sample also takes an array in it that has no
    more than three axes as one; of one with more, and for all other readers, each row is a sample. Raises UserError.
    """
    inside = archive.ARRAY.fullmatch(path)
    file, key, row = (inside["file"], inside["key"], inside["row"]) if inside else (path, None, None)
    name = file.lower().rstrip("/")
    if not name.endswith((".npz", ZARR, *hdf5.SUFFIXES)) or not Path(file).exists():
        return None
    if row is not None:
        return [path], None
    if name.endswith(".npz"):
        split = key or "train"
        taken = ".npz" in suffixes and not archive.holds(file, f"{split}_images")
        if taken and (key is None or archive.holds(file, key)):
            return [path], None
        return archive.list_npz(file, split)
    if name.endswith(ZARR):
        if ZARR not in suffixes:
            raise UserError(
                f"{where}: Zarr is read as scans alone: use --reader volume, in a config data.reader: volume"
            )
        return [path.rstrip("/")], None
    if key is not None:
        return hdf5.list_rows(file, key, 4 if name.endswith(suffixes) else 3, where), None
    if not name.endswith(suffixes):
        raise UserError(f"{where}: which of its arrays holds the samples, a row each? Name it as '{file}::DATASET'")
    return None
