"""What all commands share: the application, their common options, and how a command line becomes an exit code."""

import codecs
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Annotated, Any, Literal

import typer

from mae_ext.errors import BadSample, NothingToRead, Passing, RunError, Stopped, UserError
from mae_ext.launcher import Launcher

app = typer.Typer(
    name="mae-ext",
    help="Pretrain masked autoencoders on images, video and CT/MRI volumes, and use their encoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigArg = Annotated[
    str | None,
    typer.Argument(metavar="[CONFIG]", help="A YAML file, or a shipped recipe; by default that of what --data holds."),
]
WHAT = "a run, a checkpoint of one, or weights of another program: a file, a folder, or FORMAT:PATH (docs/weights.md)"
RunArg = Annotated[str, typer.Argument(metavar="RUN", help=f"{WHAT[0].upper()}{WHAT[1:]}.")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="Folder, list, shards or .npz; with several modalities NAME=PATH,NAME=PATH."),
]
TestOption = Annotated[
    str | None, typer.Option("--test", help="Held-out data to be judged on; with several modalities as --data.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override any key of the config; may be repeated."),
]
NameOption = Annotated[str | None, typer.Option("--modality", help="Which one, if the run has several.")]
BadOption = Annotated[float | None, typer.Option(help="Share of bad files to put up with; by default the run's own.")]
PrecisionOption = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option("--precision", help="Of what is computed; by default what the run was trained in."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Train this many steps instead.")]
AllowOption = Annotated[bool, typer.Option(help="Go on with a run although its settings or files changed.")]
SOURCES = "mae_ext.data.sources.table"
"""Lists what a path holds, the same on every rank."""


LOST = "lost touch with another"
"""What ranks say that are left behind by one; see `engine.distributed.lost_touch`."""


@contextmanager
def progress_bar(what: str, shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """A callback (done, total) that draws a bar on a terminal, and nothing elsewhere."""
    from mae_ext.engine.log import bar

    with bar(what, shown) as progress:
        yield progress


class Warnings(logging.Handler):
    """Shows what the library logs, each message once in a command; what is the same on every rank, on the first."""

    def __init__(self, rank: str) -> None:
        super().__init__(logging.WARNING)
        self.rank, self.seen = rank, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        from mae_ext.engine.log import warn

        message = record.getMessage()
        if message not in self.seen and (self.rank == "0" or record.name != SOURCES):
            self.seen.add(message)
            warn(message)


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line; whatever is the user's to mend is one line on stderr.

    Under a launcher that restarts, one line of all ranks of a node; and nothing is begun again that ended for good.
    """
    rank, launcher = os.environ.get("RANK", "0"), Launcher.here()
    library, shown = logging.getLogger("mae_ext"), Warnings(rank)

    def complain(what: Any, code: int, lasts: bool = True) -> int:
        if launcher is not None:
            launcher.report(str(what))
            if lasts:
                launcher.end(code, str(what))
        if launcher is None or launcher.first_to_say(_of_any_rank(what)):
            print(f"mae-ext{f' (rank {rank})' * (rank != '0')}: {what}", file=sys.stderr, flush=True)
        return code

    if launcher is not None and (end := launcher.ended()) is not None:
        launcher.report(end.message)
        if launcher.last:  # the last words of a log are why
            complain(f"not started again, as it would end the same way: {end.message}", end.code)
        return end.code
    library.addHandler(shown)
    try:
        outcome = typer.main.get_command(app).main(
            list(arguments) if arguments is not None else None, prog_name="mae-ext", standalone_mode=False
        )
        if outcome == 130:  # where typer has met the KeyboardInterrupt, and said nothing
            return complain("interrupted", 130)
        return outcome if isinstance(outcome, int) else 0
    except NothingToRead as error:
        from mae_ext.cli.choosing import explained

        return complain(explained(error), 2)
    except (UserError, BadSample) as error:
        return complain(error, 2)
    except RunError as error:
        return complain(error, 1, lasts=not isinstance(error, Passing))
    except Stopped as stopped:
        return complain(stopped, 75, lasts=stopped.agreed)
    except (typer.Abort, KeyboardInterrupt):
        return complain("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        # Usage errors: typer carries its own copy of click in some versions, so their class has no stable name.
        if not hasattr(error, "format_message"):
            if launcher is None or launcher.first_to_say(f"{error!r}"):
                raise
            return complain(f"{error!r}", 1, lasts=False)
        return complain(error.format_message(), 2)
    finally:
        library.removeHandler(shown)


def _of_any_rank(what: Any) -> str:
    """What ranks say alike, whichever says it; of those who lost another, one is enough."""
    return LOST if isinstance(what, RunError) and LOST in str(what) else str(what)


def as_it_came(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec's error handler: the bytes of a name that are no text go out as they came in; other signs are escaped.

    So what is printed can be copied back, and no name ends a command, whatever the terminal's encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    raw = b"".join(
        bytes([ord(sign) - 0xDC00]) if "\udc80" <= sign <= "\udcff" else sign.encode("ascii", "backslashreplace")
        for sign in error.object[error.start : error.end]
    )
    return raw, error.end


def main() -> None:
    codecs.register_error("as_it_came", as_it_came)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="as_it_came")
    sys.exit(run())
