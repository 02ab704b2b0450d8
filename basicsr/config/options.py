"""The checked options of a run, frozen. The names are BasicSR's; the description of a field is its documentation.

The YAML is flat where BasicSR's users know it flat: constructor keywords stand beside loader keys, losses and stage
arguments beside engine keys. FLAT names the fields that hold what was written flat.

A Spec is a plain mapping: `type` plus the keyword arguments of that registered class, defaults filled in. It goes
straight into `Registry.build`, which converts it again to the annotated types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from basicsr.config.optim_options import OptimOptions, SchedulerOptions
from basicsr.utils.errors import OptionError

Spec = dict[str, Any]
Phase = Literal["train", "val", "test"]

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


class LoaderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of a data set that belong to its loader, not to its constructor."""

    batch_size_per_gpu: Annotated[Count, Meta(description="images of one process in one step")] = 1
    num_worker_per_gpu: Annotated[int, Meta(ge=0, description="loader processes per rank; 0 loads in the main one")] = 0
    timeout: Annotated[float, Meta(gt=0, description="seconds that loader processes may take for one batch")] = 600.0


class DatasetSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `datasets`: loader keys, and `type` with the keywords of the data set's constructor."""

    key: str
    loader: LoaderOptions
    spec: Spec

    @property
    def phase(self) -> Phase:
        """The part of the key before the first underscore: `val_lfw` is a val set."""
        return phase_of(self.key)


class IdentitySpec(msgspec.Struct, frozen=True, kw_only=True):
    """The frozen recogniser that gives identity tokens and the identity loss."""

    path: Annotated[str, Meta(description="weights of the recogniser (any layout), or an insightface pack's name")]
    map_node: Annotated[str | None, Meta(description="ONNX: tensor taken as feature map; ~ finds it")] = None
    typical_norm: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="mean embedding norm on clean faces, which quality is measured against; ~: where it is known"),
    ] = None
    same_person_cosine: Annotated[
        Annotated[float, Meta(gt=-1, le=1)] | None,
        Meta(description="mean cosine of two clean photos of one person, where guidance stops; ~: where it is known"),
    ] = None
    self_path: Annotated[
        str | None,
        Meta(description="mode self: file of train_self_encoder.py; ~: the recogniser, weighed by its feature norm"),
    ] = None


class PathOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Folders and weights. Paths are relative to the working directory."""

    experiments_root: Annotated[str, Meta(description="checkpoints, logs, resolved options")] = "experiments"
    pretrain_network_g: Annotated[str | None, Meta(description="weights that network_g starts from")] = None
    strict_load_g: Annotated[bool, Meta(description="every key of network_g must be in the file, and no other")] = True
    param_key_g: Annotated[str, Meta(description="entry of the file: params_ema or params")] = "params_ema"
    pretrain_network_d: Annotated[str | None, Meta(description="weights that network_d starts from")] = None
    strict_load_d: Annotated[bool, Meta(description="as strict_load_g, for network_d")] = True
    param_key_d: Annotated[str, Meta(description="as param_key_g, for network_d; params where it is not there")] = (
        "params_d"
    )
    pretrain_network_vqgan: Annotated[
        str | None, Meta(description="stage-I weights: the frozen network_vqgan takes the GT codes from them")
    ] = None
    strict_load_vqgan: Annotated[bool, Meta(description="as strict_load_g, for network_vqgan")] = True
    param_key_vqgan: Annotated[str, Meta(description="as param_key_g, for network_vqgan")] = "params_ema"
    resume_state: Annotated[str | None, Meta(description="training_states/<iter>.state to go on from")] = None


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Engine keys. The losses (`*_opt`) and the stage's own arguments stand beside them in the YAML."""

    total_iter: Annotated[Count, Meta(description="iterations in all, counted from 1")]
    warmup_iter: Annotated[int, Meta(ge=-1, description="iterations of linear warm-up; -1: none")] = -1
    ema_decay: Annotated[
        Annotated[float, Meta(ge=0, lt=1)] | None, Meta(description="decay of the averaged weights; ~: none kept")
    ] = None
    optim_g: Annotated[OptimOptions, Meta(description="optimiser of network_g")]
    optim_d: Annotated[OptimOptions | None, Meta(description="optimiser of network_d")] = None
    scheduler: Annotated[SchedulerOptions | None, Meta(description="learning rate over time; ~: constant")] = None
    clip_grad_norm: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="largest gradient norm of network_g; ~: no clipping")
    ] = None
    clip_grad_norm_d: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="as clip_grad_norm, for network_d")
    ] = None
    accumulate: Annotated[
        Count, Meta(description="parts of batch_size_per_gpu images each, whose gradients make one step")
    ] = 1
    precision: Annotated[
        Literal["float32", "bf16", "fp16"],
        Meta(description="of the networks; losses, recogniser and code distances stay float32"),
    ] = "float32"
    tf32: Annotated[bool, Meta(description="GPU: float32 products with a mantissa of 10 bits, faster")] = False
    channels_last: Annotated[bool, Meta(description="keep the channels of a pixel side by side, faster")] = False
    compile: Annotated[
        tuple[Literal["g", "d", "vqgan"], ...], Meta(description="networks that torch.compile translates; []: none")
    ] = ()
    checkpoint_activations: Annotated[
        tuple[Literal["encoder", "transformer", "generator"], ...],
        Meta(description="parts of network_g that compute their features again in the backward; []: none"),
    ] = ()
    backend: Annotated[
        Literal["auto", "nccl", "gloo"], Meta(description="how ranks talk; auto: nccl on GPUs, gloo on CPUs")
    ] = "auto"
    skip_non_finite: Annotated[
        int, Meta(ge=0, description="iterations in a row that may be skipped for a loss that is not finite; 0: stop")
    ] = 0
    timeout: Annotated[
        float, Meta(gt=0, description="seconds without any progress, or of waiting for other ranks, that end the run")
    ] = 1800.0
    losses: Annotated[dict[str, Spec], Meta(description="the *_opt entries that are on")] = {}
    stage: Annotated[dict[str, Any], Meta(description="keyword-only arguments of the model_type class")] = {}


class ValOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Validation while training. Arguments of the stage's `restore` (w, adain, ...) stand beside these keys."""

    val_freq: Annotated[Count, Meta(description="iterations between two validations")]
    save_img: Annotated[bool, Meta(description="write restored images to visualization/")] = False
    num_images: Annotated[Count | None, Meta(description="images of each val set; ~: all")] = None
    metrics: Annotated[dict[str, Spec], Meta(description="label: {type: ..., ...} for each metric")] = {}
    w_sweep: Annotated[
        tuple[Annotated[float, Meta(ge=0)], ...],
        Meta(description="fidelity weights of the picture w_sweep (stages whose restore takes w); []: none"),
    ] = (0.0, 0.5, 1.0)
    restore: Annotated[dict[str, Any], Meta(description="keyword-only arguments of the stage's restore")] = {}


class WandbOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Weights & Biases beside the other logs. Without a login or a network its files stay in the run's folder."""

    project: Annotated[str | None, Meta(description="of W&B; ~: off")] = None
    resume_id: Annotated[str | None, Meta(description="W&B run to go on with; ~: that of the run's folder")] = None


class LoggerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is written while training, and how often."""

    print_freq: Annotated[Count, Meta(description="iterations between two log lines")] = 100
    save_checkpoint_freq: Annotated[Count, Meta(description="iterations between two checkpoints")] = 5000
    image_freq: Annotated[Count | None, Meta(description="iterations between two image grids; ~: none")] = None
    use_tb_logger: Annotated[bool, Meta(description="write TensorBoard files")] = True
    keep_last: Annotated[Count | None, Meta(description="checkpoints kept, the newest; ~: all")] = None
    keep_every: Annotated[
        Count | None, Meta(description="keep_last spares iterations that are a multiple of it; ~: none")
    ] = None
    wandb: Annotated[WandbOptions | None, Meta(description="Weights & Biases (pip install wandb); ~: off")] = None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run depends on."""

    name: Annotated[str, Meta(pattern=r"^[^/\\]+$", description="folder of the run under experiments_root")]
    model_type: Annotated[str, Meta(description="the stage; its classes stand below")]
    description: Annotated[str, Meta(description="free text for the reader")] = ""
    manual_seed: Annotated[int, Meta(ge=0, description="seed of weights and data (a set may state its own seed)")] = 0
    allow_same_recognizer: Annotated[
        bool, Meta(description="let the recogniser that trains also judge; the report then says so")
    ] = False
    datasets: Annotated[dict[str, DatasetSpec], Meta(description="train, val_<name>, test_<name>; ~ takes one out")]
    network_g: Annotated[Spec, Meta(description="the restoring network")]
    network_d: Annotated[Spec | None, Meta(description="the discriminator")] = None
    network_vqgan: Annotated[Spec | None, Meta(description="frozen autoencoder that gives the GT codes")] = None
    network_identity: Annotated[IdentitySpec | None, Meta(description="frozen recogniser")] = None
    path: Annotated[PathOptions, Meta(description="folders and weights")] = PathOptions()
    train: Annotated[
        TrainOptions | None, Meta(description="training; ~: a file that only describes networks and data")
    ] = None
    val: Annotated[ValOptions | None, Meta(description="validation while training; ~: none")] = None
    logger: Annotated[LoggerOptions, Meta(description="logs and checkpoints")] = LoggerOptions()

    def datasets_of(self, phase: Phase) -> list[DatasetSpec]:
        """The data sets of one phase, in the order of the YAML."""
        return [dataset for dataset in self.datasets.values() if dataset.phase == phase]

    def training(self) -> tuple[TrainOptions, DatasetSpec]:
        """The training section and its data set; OptionError when the file describes no training."""
        sets = self.datasets_of("train")
        if self.train is None or not sets:
            lacking = "train" if self.train is None else "datasets.train"
            raise OptionError(f"{lacking}: '{self.name}' has no such section, so there is nothing to train.")
        return self.train, sets[0]


# Fields whose content stands flat beside the other keys of their section: they are no keys of the YAML.
FLAT: dict[type, tuple[str, ...]] = {TrainOptions: ("losses", "stage"), ValOptions: ("restore",)}


def phase_of(key: str) -> Phase:
    """train, val or test, from the key of a data set; OptionError for any other word."""
    for phase in ("train", "val", "test"):
        if key == phase or key.startswith(f"{phase}_"):
            return phase
    raise OptionError("a data set is called train, val, val_<name> or test_<name>.")


def yaml_keys(section: type[msgspec.Struct]) -> tuple[str, ...]:
    """The keys that a person may write in this section, the flat parts aside."""
    hidden = FLAT.get(section, ())
    return tuple(name for name in section.__struct_fields__ if name not in hidden)


def to_plain(options: Options) -> dict[str, Any]:
    """The options as nested plain values in the flat form of the YAML; parsing them gives equal options."""
    plain: dict[str, Any] = plain_value(options)
    plain["datasets"] = {key: {**entry["spec"], **entry["loader"]} for key, entry in plain["datasets"].items()}
    if plain["train"]:
        losses, stage = plain["train"].pop("losses"), plain["train"].pop("stage")
        plain["train"] |= losses | stage
    if plain["val"]:
        plain["val"] |= plain["val"].pop("restore")
    return plain


def plain_value(value: Any) -> Any:
    """Structs and dataclasses to mappings, tuples to lists: what YAML can hold."""
    value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    return value
