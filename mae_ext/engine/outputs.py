"""Where predictions go: under the samples' names, a file for each, and never over a file that is not their own."""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.labelmap import stem
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sources.cache import source_identity
from mae_ext.data.sources.meant import one_sided
from mae_ext.data.sources.table import list_items
from mae_ext.engine.checkpoint import fsync, sha256
from mae_ext.engine.log import say, warn
from mae_ext.errors import BadSample, UserError, some
from mae_ext.strict_json import dumps
from mae_ext.strict_yaml import write_yaml
from mae_ext.writing import NAME_BYTES

MANIFEST = "predict.manifest.jsonl"
"""In the folder of predictions: which model they are of, then a line for each sample that is done."""

WATCHING = ("log_every", "loggers", "observe", "parallel", "micro_batch")
"""Keys of `train` that change no model; and manifests from before there were these go on."""

UNFINISHED = ".unfinished"
"""Folder for files that are being written; whatever a killed command left there goes with the next one."""


def addresses_of(sources: Sequence[str], suffixes: tuple[str, ...]) -> list[str]:
    """Every sample of the sources in their order, one that several of them name once."""
    return list(dict.fromkeys(a for source in sources for a in list_items(source, suffixes).addresses))


def warn_one_sided(modalities: Iterable[ModalityConfig], sources: Sequence[str]) -> None:
    """Said once, with counts, before anything is computed: samples whose files say nothing of left and right."""
    for reader in (build_reader(modality, "reader") for modality in modalities):
        if not hasattr(reader, "one_sided"):
            continue  # it cannot tell, so nothing is listed for it
        if unsaid := one_sided(reader, addresses_of(sources, tuple(reader.suffixes))):
            warn(unsaid)


def result_paths(addresses: Sequence[str], suffixes: tuple[str, ...], out: Path, suffix: str) -> list[Path]:
    """A file in `out` for each sample, under its name.

    Where names repeat, as of s0001/ct.nii.gz and s0002/ct.nii.gz, the samples' own folders are kept from where they
    part (out/s0001/ct.nii.gz); in one folder, as of a.jpg and a.png, their suffixes are (a.jpg.png). addresses: all
    different. suffixes: of samples. suffix: of results. Raises UserError.
    """
    names = [stem(address, suffixes) for address in addresses]
    folders = [out] * len(names)
    if len(set(names)) < len(names):
        parents = [Path(address.partition("::")[0].rstrip("/")).absolute().parent for address in addresses]
        shared = os.path.commonpath(parents)
        folders = [out / os.path.relpath(parent, shared) for parent in parents]
        times = Counter(zip(folders, names, strict=True))
        names = [
            Path(address).name if times[folder, name] > 1 else name
            for address, folder, name in zip(addresses, folders, names, strict=True)
        ]
    paths = [folder / (name + suffix) for folder, name in zip(folders, names, strict=True)]
    if long := [path for path in paths if len(os.fsencode(path.name)) > NAME_BYTES]:
        raise UserError(f"--out {out}: no file can have so long a name as {some(long)}; rename the samples")
    if shared_by := [path for path, count in Counter(paths).items() if count > 1]:
        raise UserError(f"--out {out}: several samples would be written as {some(shared_by)}; predict them one by one")
    return paths


class Results:
    """What one model has said, in one folder. The same command again leaves what is there and whole, and does the rest.

    A sample is done when its line in the manifest has the sample's identity (size, time of change, both ends), and its
    file, if it has one, the SHA-256 of that line. A file that no line knows is somebody else's; one of a sample of the
    same name from another place is that sample's, and is not written over either. Lines come before their files, so
    that a kill between the two costs one sample, and no file without a line, this or an earlier one, is ours.
    """

    def __init__(self, out: Path, model: nn.Module, config: Config, depends_on: str = "") -> None:
        """depends_on: what else an answer depends on, in words; with other words it is another model's."""
        self.out, self.path, self.model = out, out / MANIFEST, model_identity(model, config) + depends_on
        self.otherwise = " or of what was asked otherwise" * bool(depends_on)
        readers = [build_reader(modality, name) for name, modality in config.modalities.items()]
        self._parts = [reader.files for reader in readers if hasattr(reader, "files")]
        self.samples: dict[str, dict[str, Any]] = {}
        self.files: dict[str, str] = {}
        self.earlier: dict[str, set[str]] = {}
        self.owners: dict[str, str] = {}
        self.missing: list[BadSample] = []
        self.total = 0
        self._file: TextIO | None = None
        self._begun = False

    def __enter__(self) -> "Results":
        return self

    def open(self, addresses: Sequence[str], paths: Sequence[Path] = (), summaries: Sequence[Path] = ()) -> list[int]:
        """-> which of the samples are still to do. Raises UserError before anything is written or computed.

        paths: a file for each sample, if there is to be one. summaries: files of all samples together, which are
        written anew as long as no sample that they know is left out.
        """
        if self.path.exists():
            self._own()
            self._read()
        whose: list[tuple[Path, str | None]] = [*zip(paths, addresses), *((p, None) for p in summaries)]  # noqa: B905
        foreign = [path for path, address in whose if path.exists() and not self._ours(path, address)]
        if foreign:
            raise UserError(
                f"--out {self.out}: it holds {some(foreign)}, and nothing is written over; name another folder"
            )
        if any(path.exists() for path in summaries) and (others := sorted(self.samples.keys() - set(addresses))):
            raise UserError(
                f"--out {self.out}: it holds what was said of {len(others)} other samples: {some(others)}; name "
                f"another folder"
            )
        if self._file is None:
            self.out.mkdir(parents=True, exist_ok=True)
            self._own()
            self._line({"model": self.model})
            self._begun = True
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir()
        self.total = len(addresses)
        left = [i for i, address in enumerate(addresses) if not self._done(address, paths[i] if paths else None)]
        for i in left:
            self.samples.pop(addresses[i], None)
        if len(left) < len(addresses):
            say(f"{len(addresses) - len(left)} of {len(addresses)} samples are done, by this model, in {self.out}")
        return left

    @property
    def unfinished(self) -> Path:
        return self.out / UNFINISHED

    def row(self, address: str) -> Any:
        """What was recorded of a sample that is done; None of one that is not."""
        return self.samples.get(address, {}).get("row")

    @contextmanager
    def writing(self, address: str, path: Path, row: Any = None) -> Iterator[Path]:
        """The name to write a sample's file under; at the end it is recorded and moved to `path`."""
        beside = self.unfinished / path.name
        yield beside
        self.files[self._name(path)] = digest = sha256(beside)
        self._record(address, {"file": self._name(path), "sha256": digest, "row": row})
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.replace(path)

    def record(self, rows: Mapping[str, Any]) -> None:
        """What was found of samples without a file of their own."""
        for address, row in rows.items():
            self._record(address, {"row": row}, sync=False)
        self._sync()

    def summary(self, path: Path, text: str) -> None:
        """A file of all samples together, in the place of the one before; none where there is nothing to say."""
        if not text:
            path.unlink(missing_ok=True)  # `open` has seen that it is ours
            return
        beside = self.unfinished / path.name
        beside.write_text(text, encoding="utf-8")
        fsync(beside)
        digest = sha256(beside)
        if path.exists() and digest == self.files.get(self._name(path)):
            return
        self.files[self._name(path)] = digest
        self._line({"file": self._name(path), "sha256": digest})
        self._sync()
        beside.replace(path)

    def leave_out(self, error: BadSample) -> None:
        warn(f"left out: {error}")
        self.missing.append(error)

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is None:
            return
        shutil.rmtree(self.unfinished, ignore_errors=True)
        if self._begun and not self.samples and not self.files:  # nothing to go on from
            self.path.unlink(missing_ok=True)
        self._file.close()
        if kind is None and self.missing:
            named = some([error.path for error in self.missing])
            warn(f"{len(self.missing)} of {self.total} samples are missing in {self.out}: {named}")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.out).as_posix()

    def _ours(self, path: Path, address: str | None) -> bool:
        """Whether the file is as it was written, and of this sample, or of the same bytes under another address."""
        name, digest = self._name(path), sha256(path)
        if self.files.get(name) != digest:
            if digest not in self.earlier.get(name, ()):
                return False
            self.files[name] = digest  # a kill came before the move: the one before it is there, and not done
        owner = self.owners.get(name)
        if address is None or owner is None or owner == address:
            return True
        known = self.samples[owner]["identity"]
        return known is not None and known == self._identity(address)

    def _done(self, address: str, path: Path | None) -> bool:
        line = self.samples.get(address)
        if line is None or line["identity"] is None or line["identity"] != self._identity(address):
            return False
        if path is None:
            return True
        name = self._name(path)
        return line.get("file") == name and path.exists() and self.files.get(name) == line["sha256"]

    def _record(self, address: str, line: Mapping[str, Any], sync: bool = True) -> None:
        self.samples[address] = {"source": address, "identity": self._identity(address), **line}
        if "file" in line:
            self.owners[line["file"]] = address
        self._line(self.samples[address])
        if sync:
            self._sync()

    def _identity(self, address: str) -> Any:
        """As JSON gives it back, of all the files that a sample is in; None of what cannot be opened."""
        path = Path(address)
        try:
            files = sorted(map(str, path.iterdir())) if "::" not in address and path.is_dir() else [address]
            files = [file for file in files if not Path(file).is_dir()]
            files += [file for parts in self._parts for file in parts(address) if file not in files]
            return json.loads(dumps([source_identity(file) for file in files]))
        except (BadSample, OSError):
            return None

    def _line(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(dumps(line) + "\n")
        self._file.flush()

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())

    def _own(self) -> None:
        """One command at a time writes here. The lock dies with its holder."""
        self._file = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            self._file = None
            raise UserError(f"--out {self.out}: another command is predicting there; wait, or name another") from None

    def _read(self) -> None:
        """What the manifest knows. A last line that a kill cut off is cut off the file as well."""
        content = self.path.read_bytes()
        whole = content.rpartition(b"\n")[0]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            first = lines[0]["model"] if lines else self.model
            for line in lines[1:]:
                if "source" in line:
                    self.samples[line["source"]] = line
                if "file" in line:
                    self.earlier.setdefault(line["file"], set()).add(line["sha256"])
                    self.files[line["file"]] = line["sha256"]
                if "source" in line and "file" in line:
                    self.owners[line["file"]] = line["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: not a manifest of predictions ({error!r}); name another folder") from None
        if first != self.model:
            raise UserError(
                f"--out {self.out}: it holds predictions of another model or checkpoint{self.otherwise}; name another "
                f"folder"
            )
        if (length := len(whole) + 1 if whole else 0) < len(content):
            os.truncate(self.path, length)
        if not lines:
            self._line({"model": self.model})


def model_identity(model: nn.Module, config: Config) -> str:
    """SHA-256 of the config, less who watched the training, and of every weight: of a checkpoint, wherever it is."""
    settings = config.model_dump(mode="json")
    settings["train"] = {key: value for key, value in settings["train"].items() if key not in WATCHING}
    digest = hashlib.sha256(write_yaml(settings).encode("utf-8", "surrogateescape"))
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
