"""A toy training: 32 px generated faces, tiny networks, an untrained recogniser. For the tests of models and engine.

The networks are as small as they may be (64 tokens of 8 codes), so that an iteration takes milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

import basicsr.archs
import basicsr.data
import basicsr.losses
import basicsr.metrics
import basicsr.models  # noqa: F401  the five fill the registries
from basicsr.config import parse_options
from basicsr.config.options import Options
from basicsr.data.generated_faces import person_at, photo_at, render
from basicsr.engine.trainer import Trainer
from basicsr.models.base_model import BaseModel
from basicsr.models.stage_builder import build_stage
from basicsr.recognizers import save_recognizer
from basicsr.recognizers.adapter import RecognizerSpec
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.img_util import imwrite
from basicsr.utils.seed import seed_everything

SIZE = 32
VQGAN = {
    "img_size": SIZE,
    "nf": 8,
    "ch_mult": [1, 2, 2],
    "res_blocks": 1,
    "attn_resolutions": [8],
    "codebook_size": 8,
    "emb_dim": 8,
}
CODEFORMER = {
    **VQGAN,
    "dim_embd": 16,
    "n_head": 2,
    "n_layers": 2,
    "latent_size": 64,
    "connect_list": ["8", "16"],
}
IDENTITY = {"id_embed_dim": 16, "id_map_shape": [32, 1, 1], "num_vec_tokens": 2, "num_map_tokens": 1}
DEGRADATION = {"blur_sigma": [1, 10], "downsample_range": [2, 20], "noise_range": [0, 10], "jpeg_range": [40, 90]}


def make_faces(folder: Path, num_people: int = 4, num_photos: int = 3, size: int = SIZE) -> Path:
    """Generated faces with an index: the last quarter of the people is the split val, the others train."""
    lines = ["path,identity,split"]
    for person in range(num_people):
        for photo in range(num_photos):
            name = f"{person}_{photo}.png"
            imwrite(folder / name, render(person_at(0, person), photo_at(0, person, photo), size))
            lines.append(f"{name},p{person},{'train' if person < num_people - num_people // 4 else 'val'}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder / "index.csv"


def make_recognizer(path: Path, seed: int = 0) -> Path:
    """An untrained recogniser: good enough for gradients and equalities."""
    torch.manual_seed(seed)
    net = IResNet((1, 1, 1, 1), width=4, input_size=(16, 16), embed_dim=16).eval()
    spec = RecognizerSpec(
        "iresnet", (16, 16), "rgb", (127.5,) * 3, (127.5,) * 3, (0.0, 0.0), 16, net.map_shape, 4.0, sha256=""
    )
    save_recognizer(net, path, spec)
    return path


def stage_options(stage: int, folder: Path, **train: Any) -> dict[str, Any]:
    """Options of a toy stage as plain values; `train` overrides keys of that section."""
    index = folder / "faces" / "index.csv"
    if not index.exists():
        make_faces(folder / "faces")
        make_recognizer(folder / "recognizer.safetensors")
    adam = {"type": "Adam", "lr": 1e-3}
    data: dict[str, Any] = {"gt_size": SIZE, "batch_size_per_gpu": 2, "use_hflip": True}
    options: dict[str, Any] = {
        "name": f"toy{stage}",
        "path": {"experiments_root": str(folder / "experiments")},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
        "train": {"total_iter": 4, "ema_decay": 0.5, "optim_g": adam, **train},
    }
    if stage == 1:
        return options | {
            "model_type": "VQGANModel",
            "datasets": {"train": {"type": "FFHQBlindDataset", "source": str(index), "split": "train", **data}},
            "network_g": {"type": "VQAutoEncoder", **VQGAN},
            "network_d": {"type": "VQGANDiscriminator", "ndf": 4, "n_layers": 1},
            "train": {
                "optim_d": adam,
                "pixel_opt": {"type": "L1Loss"},
                "gan_opt": {"type": "GANLoss"},
                "net_d_start_iter": 1,
                **options["train"],
            },
        }
    triplets = {"type": "IdentityBlindDataset", "index": str(index), "num_refs": [1, 2], "degradation": DEGRADATION}
    losses = {"code_opt": {}, "feat_opt": {}, "identity_opt": {"every": 2, "batch_part": 0.5, "jitter": True}}
    options |= {
        "model_type": "IDCodeFormerModel",
        "datasets": {"train": {**triplets, **data}},
        "network_g": {"type": "IDCodeFormer", **CODEFORMER, **IDENTITY},
        "network_vqgan": {"type": "VQAutoEncoder", **VQGAN},
        "network_identity": {"path": str(folder / "recognizer.safetensors")},
        "train": {**losses, **options["train"]},
    }
    options["path"]["pretrain_network_vqgan"] = str(folder / "experiments" / "toy1" / "models" / "net_g_latest.pth")
    if stage == 3:
        options["model_type"] = "IDCodeFormerJointModel"
        options["datasets"]["train"]["degradation_large"] = DEGRADATION
        options["network_d"] = {"type": "VQGANDiscriminator", "ndf": 4, "n_layers": 1}
        options["train"] = {
            "optim_d": adam,
            "pixel_opt": {"type": "L1Loss"},
            "gan_opt": {"type": "GANLoss"},
            "net_d_start_iter": 0,
            "schedule": [
                {"until": 1, "w": [0.5, 1.3]},
                {"until": 2, "w": 0.0},
                {"until": None, "every": 2, "otherwise": {"lq": "large", "code_only": True}},
            ],
            **options["train"],
        }
    return options


def write_options(plain: dict[str, Any], folder: Path) -> Path:
    """The options as a YAML file."""
    path = folder / f"{plain['name']}.yml"
    path.write_text(yaml.safe_dump(plain))
    return path


def parse(plain: dict[str, Any], folder: Path) -> Options:
    """Checked options from plain values."""
    return parse_options(write_options(plain, folder))


def build(options: Options) -> BaseModel:
    """The stage of the options on the CPU, from the options' seed."""
    seed_everything(options.manual_seed)
    return build_stage(options, torch.device("cpu"))


def run(plain: dict[str, Any], folder: Path, resume_state: Path | None = None) -> Trainer:
    """Train a toy stage to its end (or its next stop) and return the trainer."""
    options = parse(plain, folder)
    trainer = Trainer(options, build(options), folder / "experiments" / options.name, resume_state)
    trainer.run()
    return trainer


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything that a run has learned: both networks and the average, by name."""
    nets = {"g": trainer.stage.net_g, "d": trainer.stage.net_d}
    if trainer.state.ema is not None:
        nets["ema"] = trainer.state.ema.net
    return {
        f"{name}.{key}": value.clone()
        for name, net in nets.items()
        if net is not None
        for key, value in net.state_dict().items()
    }
