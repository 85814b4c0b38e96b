"""`train:` of a config: how long, how fast, how exactly, what is kept of it, and who looks on."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from mae_ext.model_config import Pooled
from mae_ext.sections import Named, PlugIn, Positive, Section


class ProbeConfig(Section):
    """kNN and linear probe at the start, every `every` steps and at the end. They change no loss, and take time."""

    every: Positive
    """Steps between two probes."""
    train: str
    """A labelled source to learn from: class folders, a list (index.csv::train), shards or .npz."""
    test: str
    """A labelled source to judge on."""
    modality: str | None = None
    """Which one, if the run has several."""
    pool: Pooled = "mean"
    """What becomes of a sample's tokens: their mean, the first class token, or moments over the last blocks."""
    k: Positive = 20
    """Neighbours of kNN."""

    def due(self, step: int, total: int) -> bool:
        return step % self.every == 0 or step == total


ONE, NAMED = "(one)", "(named)"
"""Which form `train.probe` has; of messages these are no part."""


def _form(value: Any) -> str:
    """Named sets are sections under names that are no keys of one."""
    keys = value if isinstance(value, dict) else {}
    sections = any(isinstance(section, dict | ProbeConfig) for section in keys.values())
    return NAMED if sections and not keys.keys() & ProbeConfig.model_fields.keys() else ONE


def _one_form(value: Any) -> Any:
    """Raises ValueError for keys of one set beside named ones, and for names that no row or chart could have."""
    if not isinstance(value, dict):
        return value
    keys = [str(key) for key in value if key in ProbeConfig.model_fields]
    sets = [str(key) for key, section in value.items() if isinstance(section, dict | ProbeConfig) and key not in keys]
    if keys and sets:
        raise ValueError(f"{', '.join(keys)} beside the named {', '.join(sets)}: write a set's keys into each set")
    if keys and all(isinstance(section, dict | ProbeConfig) for section in value.values()):
        raise ValueError(f"no set can be called as a key of one is: {', '.join(keys)}")
    for name in sets:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"set {name!r}: a name is letters, digits, '_', '-' and '.'")
    return value


Probes = Annotated[
    Annotated[ProbeConfig, Tag(ONE)] | Annotated[dict[str, ProbeConfig], Tag(NAMED)],
    Discriminator(_form),
    BeforeValidator(_one_form),
]
"""One set of labelled data, or several by name."""


def _durations(value: Any) -> Any:
    pair = value if isinstance(value, (list, tuple)) else (value, 0)
    numbers = all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and (0 <= n < 1 or n == n // 1 > 0) for n in pair
    )
    if len(pair) != 2 or not numbers:
        raise ValueError("expected steps (50), a share of the run below 1 (0.2), or two such numbers: [0.2, 0.05]")
    return value


Durations = Annotated[int | float | list[int | float], BeforeValidator(_durations)]
"""Steps, or below 1 a share of the run's; of one thing, or of two."""


class TrainConfig(Section):
    """Give epochs or steps. Per-step numbers are over all ranks and accumulation steps."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the files of the first modality."""
    steps: Positive | None = None
    """Optimiser steps, instead of epochs."""
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """In which the rate rises from 0 to its peak; half a cosine follows."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same in steps."""
    lr: Annotated[float, Field(gt=0)] = 1.5e-4
    """Base learning rate: the rate used is lr * (samples per step) / lr_per (MAE, appendix A: per 256)."""
    lr_per: Positive | None = 256
    """null: lr is the rate used."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """The rate at the end. It does not follow the batch as lr does."""
    optimizer: Literal["adamw", "lion", "muon"] = "adamw"
    """`muon` (PyTorch's; 2502.16982) moves the matrices of blocks, scaled so that lr and weight_decay are as AdamW's,
    and AdamW the rest; its products take long on a CPU. `lion` (2302.06675; pip install 'mae-ext[lion]') keeps one
    moment: its paper takes lr 3 to 10 times smaller, weight_decay as much larger, and betas [0.9, 0.99]."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Of AdamW, or Lion."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Of the optimiser, for matrices; vectors and learned positions have none."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The rate of layer i is this to the power of (depth + 1 - i): embedding 0, blocks 1 to depth, the rest depth + 1
    (BEiT, 2106.08254; MAE, 2111.06377, table 9, fine-tunes with 0.75)."""
    encoder_lr: Annotated[float, Field(gt=0)] = 1.0
    """What the rate of all of the encoder is multiplied by, beside layer_decay: of its embedding, class token, blocks
    and last norm, and not of a task's head, nor in pretraining of the decoder."""
    thaw: Durations = 0
    """Steps, or below 1 the share of the run, in which the encoder stands still and only the rest learns: it gets no
    update and no weight decay, and its moments begin after. Then its rate rises in a line to what it is without: over
    as many steps as the warm-up has, or over the second of two numbers, [0.2, 0.05]."""
    freeze: Literal["none", "encoder"] | Positive = "none"
    """What is not trained of the encoder that `init` brings: nothing, all of it, or its embedding and so many of its
    first blocks. In pretraining the decoder always learns."""
    scratch: dict[str, Any] = Field(default_factory=dict)
    """Keys of this section that have other values where nothing is loaded (`init` none), {layer_decay: 1, lr: 1e-3}
    say: what suits an encoder that has learned something does not suit one that has not. `--set train.KEY=VALUE` is
    for both."""
    evaluate_every: Positive | None = None
    """Steps between two evaluations on data.test. There is always one at the end."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The most that the gradient's norm may be; null is no limit."""
    uniformity: Annotated[float, Field(ge=0)] = 0.0
    """Weight of U-MAE's term (model/uniformity.py) in the loss; its paper takes 0.01."""
    accumulate: Positive = 1
    """Parts that a batch is computed in, one after the other: less memory, the same recipe."""
    micro_batch: Positive | Literal["auto"] | None = None
    """Instead of `accumulate`: the samples that a part may have on one rank, of all modalities together; `auto` tries
    how many fit into a GPU's memory when the run starts (on a CPU a batch is one part)."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of what is computed; weights are kept in fp32."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Over several ranks: `ddp`, each has the whole model; `fsdp`, each has a share of its weights and moments."""
    compile: bool | Literal["auto", "blocks", "whole"] = "auto"
    """What of the step torch.compile makes: nothing (false), each block by itself, or the whole (true says the same), a
    start of minutes. auto: on one GPU that pretrains the whole, on others blocks, on CPUs nothing; where it cannot, the
    run goes on without."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """reduce-overhead records CUDA graphs of the whole step; max-autotune tries kernels, which takes long."""
    deterministic: bool = True
    """Whether a GPU gives the same bits each time, so that a run that goes on is the same to the bit."""
    matmul: Literal["highest", "high", "medium"] = "highest"
    """How exactly a GPU multiplies fp32 numbers: highest is fp32, as CPUs do; high is TF32, 10 bits of 23."""
    cudnn_benchmark: bool = False
    """Whether cuDNN tries its convolutions and takes the fastest, not the same ones in each run."""
    checkpointing: bool | Literal["selective"] = False
    """Whether activations are computed twice, to save memory: all of a block (true), or those that cost little time,
    norms and GELUs, and not products and attention (`selective`)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU where there is one."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read files; with 0 the run does."""
    prefetch: Positive = 2
    """Batches (with `accumulate` parts of them) that each worker is asked for ahead."""
    worker_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds without a batch after which a worker counts as hung and is replaced."""
    rank_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds after which a rank that says nothing in a step counts as hung, and all end. A worker of the loader that
    hangs may be replaced twice within it, and its files be tried one by one; a rank that dies is noticed at once."""
    save_every: Positive = 500
    """Steps between two checkpoints."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Checkpoints that are kept, the newest."""
    keep_best: bool = False
    """Whether the one that is best on data.test is kept beside them: of pretraining by its loss there, of tasks by
    accuracy, mean Dice or mAP. best.json in the run names it."""
    log_every: Positive = 1
    """Steps between two times that the device is asked how they went; the rows of all of them are written then."""
    tensorboard: bool = True
    """Short for the logger of that name."""
    loggers: tuple[Named, ...] = ()
    """Who is told of losses and scores beside metrics.jsonl: wandb, mlflow, a plug-in."""
    probe: Probes | None = None
    """Judges the encoder while it trains; changes no loss. Short for the observer of that name. Several sets of data
    have names, {old: {every: ...}, new: {every: ...}}: what is won on one, and forgotten on another."""
    observe: tuple[Named, ...] = ()
    """Who else looks at the model while it trains, and changes nothing."""

    @property
    def comparing(self) -> dict[str, float]:
        """Weights of the terms of pretraining's loss that compare the samples of a batch, of those that have one."""
        return {"uniformity": self.uniformity} if self.uniformity else {}

    @property
    def all_loggers(self) -> tuple[PlugIn, ...]:
        named = any(spec.name == "tensorboard" for spec in self.loggers)
        return (*([PlugIn(name="tensorboard")] if self.tensorboard and not named else []), *self.loggers)

    @property
    def all_observers(self) -> tuple[PlugIn, ...]:
        if self.probe is None:
            return self.observe
        if isinstance(self.probe, ProbeConfig):
            return (PlugIn(name="probe", **self.probe.model_dump()), *self.observe)
        sets = {name: spec.model_dump() for name, spec in self.probe.items()}
        return (PlugIn(name="probe", sets=sets), *self.observe)  # type: ignore[call-arg]

    @property
    def probes(self) -> dict[str, ProbeConfig]:
        """By their keys in a config: "train.probe", or "train.probe.NAME"."""
        if self.probe is None or isinstance(self.probe, ProbeConfig):
            return {} if self.probe is None else {"train.probe": self.probe}
        return {f"train.probe.{name}": spec for name, spec in self.probe.items()}

    @model_validator(mode="after")
    def _each_once(self) -> "TrainConfig":
        for key, specs in (("loggers", self.all_loggers), ("observe", self.all_observers)):
            names = [spec.name for spec in specs]
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                also = " (train.probe is one)" if twice[0] == "probe" else ""
                raise ValueError(f"{key} names '{twice[0]}' twice{also}: their rows would be in one file; name it once")
        if not self.tensorboard and any(spec.name == "tensorboard" for spec in self.loggers):
            raise ValueError("tensorboard is false, and loggers names it: leave one of them out")
        return self

    @model_validator(mode="after")
    def _numerics(self) -> "TrainConfig":
        if self.cudnn_benchmark and self.deterministic:
            raise ValueError("cudnn_benchmark may choose otherwise in each run: set deterministic to false with it")
        if self.compile_mode != "default" and self.compile is False:
            raise ValueError(
                f"compile_mode={self.compile_mode} and compile=false: set compile to whole, or leave it out"
            )
        if self.compile_mode == "reduce-overhead" and self.compile == "blocks":
            raise ValueError("compile_mode=reduce-overhead records a step as a whole: set compile to whole")
        parts = f"accumulate={self.accumulate}" if self.micro_batch is None else f"micro_batch={self.micro_batch}"
        if self.compile_mode == "reduce-overhead" and (self.accumulate > 1 or self.micro_batch is not None):
            raise ValueError(
                f"compile_mode=reduce-overhead keeps gradients where the next of the parts of {parts} would write its "
                f"own: set one of them to its default"
            )
        return self

    @model_validator(mode="after")
    def _still(self) -> "TrainConfig":
        if self.optimizer == "muon" and self.parallel == "fsdp":
            raise ValueError(
                "optimizer=muon needs whole matrices, of which parallel=fsdp leaves a rank a share: set it to ddp"
            )
        if self.freeze == "encoder" and self.encoder_lr != 1:
            raise ValueError(f"encoder_lr={self.encoder_lr:g} has no rate to change: freeze=encoder; set it to 1")
        if self.freeze == "encoder" and self.thaw != 0:
            raise ValueError(f"thaw={self.thaw} lets no encoder learn: freeze=encoder; set one of them to its default")
        return self

    @model_validator(mode="after")
    def _other_values(self) -> "TrainConfig":
        """Those of `scratch` have to be right, also where they are not asked for."""
        try:
            if unknown := self.scratch.keys() - (TrainConfig.model_fields.keys() - {"scratch"}):
                raise ValueError(f"scratch: {', '.join(sorted(unknown))}: no such key of train")
            if self.scratch:
                TrainConfig.model_validate({**self.model_dump(exclude={"scratch"}), **self.scratch})
        except ValidationError as error:
            wrong = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
            raise ValueError(
                "; ".join(f"scratch: {key}: {text}" if key else f"scratch: {text}" for key, text in wrong)
            ) from None
        return self

    @model_validator(mode="after")
    def _length(self) -> "TrainConfig":
        for what in ("epochs", "warmup_epochs"):
            other = what.replace("epochs", "steps")
            if getattr(self, what) is not None and getattr(self, other) is not None:
                raise ValueError(f"give {what} or {other}, not both")
        if self.epochs is None and self.steps is None:
            raise ValueError("give epochs or steps")
        if self.micro_batch is not None and self.accumulate > 1:
            raise ValueError(
                f"micro_batch={self.micro_batch} decides how many parts a batch has, and accumulate={self.accumulate} "
                f"does so too: set accumulate to 1, or micro_batch to null"
            )
        for key, weight in self.comparing.items():
            if self.micro_batch is not None:
                raise ValueError(
                    f"{key}={weight:g} compares the samples of a batch, which is in one part then: set micro_batch to "
                    f"null, and checkpointing to true if memory is short"
                )
            if self.accumulate > 1:
                raise ValueError(
                    f"{key}={weight:g} compares the samples of a batch, which accumulate={self.accumulate} never has "
                    f"together; set accumulate to 1, and checkpointing to true if memory is short"
                )
        return self
