"""torch.compile of a step: of which parts, in which mode, and what becomes of a run whose compiler fails.

Parts are compiled in place, before DistributedDataParallel or `fully_shard` is put around them: names of parameters
stay, and gradients of all but the last part of an accumulated batch stay on their rank. Only training runs what is
compiled; evaluations and observers see the model as it is, and no graph is made for a shape of theirs.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import warn
from mae_ext.errors import ConfigError, RunError
from mae_ext.model.transformer import Block

BACKEND = "inductor"

GRAPHS = 64
"""Graphs that one function may have: blocks share theirs, one for each shape and width of encoder and decoder. Beyond
PyTorch's 8 it goes on uncompiled, without a word."""

MODES = {"default": None, "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune-no-cudagraphs"}
"""What torch.compile is given. CUDA graphs are those of reduce-overhead alone, whose memory holds a whole step."""

Extent = Literal["blocks", "whole"]


def extent_of(config: Config, ranks: Ranks) -> Extent | None:
    """What `train.compile` comes to on these ranks; None is nothing.

    auto is nothing on a CPU, which has kernels of its own (engine/cpu.py). On one GPU that pretrains it is the whole
    step, which has been measured (docs/results.md: 1.4 times as fast as without). On several it is each block by
    itself, so that gradients travel while others are still computed, and in tasks too, whose heads may be other
    people's networks; neither has been measured. With weights in shares it is blocks, between which these are gathered.
    Raises ConfigError for a mode that cannot be.
    """
    train, graphs = config.train, config.train.compile_mode == "reduce-overhead"
    if graphs and ranks.device.type != "cuda":
        raise ConfigError(
            f"train.compile_mode=reduce-overhead is CUDA graphs, and this run is on a {ranks.device.type}: set it to "
            f"default"
        )
    shares = train.parallel == "fsdp" and ranks.world > 1
    if shares and (graphs or train.compile == "whole"):
        raise ConfigError(
            "train.parallel=fsdp gathers weights block by block, which is no one graph: set train.compile to blocks "
            "and train.compile_mode to default"
        )
    if train.compile == "auto":
        if ranks.device.type != "cuda":
            return None
        return "whole" if graphs or (ranks.world == 1 and config.task.name == "pretrain") else "blocks"
    if train.compile is True:
        return "blocks" if shares else "whole"
    return train.compile or None


class Compiled(nn.Module):
    """batches -> what `objective` gives, of which `parts` are compiled in place when they are first called.

    wish: `train.compile`. Where it is "auto", a compiler that fails is a warning, and all parts go on as they were;
    else the run ends: raises RunError.
    """

    def __init__(self, objective: nn.Module, parts: list[nn.Module], wish: str | bool, mode: str) -> None:
        super().__init__()
        from torch._dynamo import config, exc  # here: it takes a second, which who compiles nothing need not wait

        config.recompile_limit = max(config.recompile_limit, GRAPHS)
        self.failure, self.wish = exc.TorchDynamoException, wish
        self.objective, self.parts = objective, tuple(parts)
        for part in parts:
            fast = torch.compile(part._call_impl, backend=BACKEND, mode=MODES[mode], dynamic=False)
            part._compiled_call_impl = _in_training(part, fast)

    def forward(self, batches: dict[str, Batch]) -> tuple[Tensor, Tensor]:
        try:
            return self.objective(batches)  # type: ignore[no-any-return]
        except self.failure as error:
            said = f"the compiler failed: {_first_line(error)}"
            if self.wish != "auto":
                raise RunError(
                    f"train.compile={str(self.wish).lower()}: {said}. It needs a C++ compiler on a CPU, "
                    f"Triton and a C compiler on a GPU: install them, or set train.compile=false"
                ) from error
            warn(f"{said}. The run goes on without it; train.compile=false says so from the start")
            self.plain()
        return self.objective(batches)  # type: ignore[no-any-return]

    def plain(self) -> None:
        for part in self.parts:
            part._compiled_call_impl = None


def _in_training(part: nn.Module, fast: Callable[..., Any]) -> Callable[..., Any]:
    """What `nn.Module.compile` puts there, in training mode alone (also where blocks are computed again backwards)."""
    slow: Callable[..., Any] = part._call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        return (fast if part.training else slow)(*args, **kwargs)

    return call


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "inner_exception", error)  # what a backend raised, in PyTorch's words around it
    return f"{type(cause).__name__}: {(str(cause).strip() or 'no reason given').splitlines()[0]}"


def compiled(objective: nn.Module, config: Config, ranks: Ranks) -> nn.Module:
    """The objective, in place, compiled as the config says; as it is where that is nothing."""
    extent = extent_of(config, ranks)
    if extent is None:
        return objective
    parts = [objective]
    if extent == "blocks":
        parts = [part for part in objective.modules() if isinstance(part, Block)]
    return Compiled(objective, parts, config.train.compile, config.train.compile_mode)
