"""Keys of upstream's option files that are gone or have another name here: mapped or ignored, one warning line each.

A rule applies only where nothing takes the key today, so a class that has such an argument keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from basicsr.config.schema import Schema
from basicsr.config.yaml_loader import KeyPath, Located, OptionTree, dotted


class Rule(NamedTuple):
    """The value of `old` goes to the first place in `new` that takes it, or nowhere.

    `*` in `old` is any one key, and the same key in `new`. `only`: values that may be ignored; any other is an error.
    `off`: values that say nothing, since they are the default of the new place.
    """

    old: str
    new: tuple[str, ...] = ()
    why: str = ""
    only: tuple[Any, ...] | None = None
    off: tuple[Any, ...] = ()


RANGES = ("blur_sigma", "downsample_range", "noise_range", "jpeg_range")
SHARED = ("blur_kernel_size", "kernel_list", "kernel_prob", "gray_prob")  # by both degradations
CHANGES = ("color_jitter_prob", "color_jitter_shift", "color_jitter_pt_prob", "gen_inpaint_mask")  # `~`: none
LMDB = (
    "pictures packed by scripts/make_lmdb.py are named as `lmdb: FOLDER` beside source or index, others read as files"
)
HALF = ([0.5, 0.5, 0.5],)
OFF = (False, None)

LEGACY: tuple[Rule, ...] = (
    Rule("num_gpu", why="torchrun --nproc_per_node decides"),
    Rule("dist_params", why="torchrun decides"),
    Rule("find_unused_parameters", why="the stage knows"),
    Rule("is_train", why="the program decides"),
    Rule("use_tb_logger", ("logger.use_tb_logger",)),
    Rule("datasets.*.dataroot_gt", ("datasets.*.source", "datasets.*.index")),
    *(Rule(f"datasets.*.{key}", (f"datasets.*.degradation.{key}",)) for key in (*SHARED, *RANGES)),
    *(Rule(f"datasets.*.{key}", (f"datasets.*.degradation.{key}",), off=OFF) for key in CHANGES),
    *(Rule(f"datasets.*.{key}_large", (f"datasets.*.degradation_large.{key}",)) for key in RANGES),
    Rule("datasets.*.name", why="the key names the set"),
    Rule("datasets.*.phase", why="the key names the phase"),
    Rule("datasets.*.scale", only=(1, None), why="restoration keeps the size"),
    Rule("datasets.*.filename_tmpl", why="pairs have equal names"),
    Rule("datasets.*.io_backend", only=({"type": "disk"},), why=LMDB),
    Rule("datasets.*.in_size", why="lq has the size of gt"),
    Rule("datasets.*.mean", only=HALF, why="images are always in [-1, 1]"),
    Rule("datasets.*.std", only=HALF, why="images are always in [-1, 1]"),
    Rule("datasets.*.use_corrupt", only=(True,), why="a data set degrades where it has `degradation`"),
    Rule("datasets.*.use_motion_kernel", only=OFF, why="upstream reads it nowhere"),
    Rule("datasets.*.motion_kernel_prob", why="upstream reads it nowhere"),
    Rule("datasets.*.latent_gt_path", only=(None,), why="GT codes come from network_vqgan"),
    Rule("datasets.*.component_path", only=(None,), why="no component boxes"),
    Rule("datasets.*.dataset_enlarge_ratio", why="the sampler never ends"),
    Rule("datasets.*.prefetch_mode", why="workers load ahead"),
    Rule("datasets.*.num_prefetch_queue", why="workers load ahead"),
    Rule("datasets.*.pin_memory", why="on where there is a GPU"),
    Rule("datasets.*.persistent_workers", why="always on"),
    Rule("datasets.*.use_shuffle", why="training shuffles, validation does not"),
    Rule("network_d.model_path", ("path.pretrain_network_d",)),
    Rule("path.root", why="paths are relative to the working directory"),
    Rule("path.results_root", why="scripts/evaluate.py names its own folder"),
    Rule("path.ignore_resume_networks", why="a resumed run takes all its networks"),
    Rule("train.manual_seed", why="upstream reads it nowhere; manual_seed stands at the top"),
    Rule("train.use_adaptive_weight", why="upstream reads it nowhere; the weight is always adaptive"),
    Rule("train.net_g_start_iter", only=(0,), why="network_g is trained from the start"),
    Rule("train.net_d_iters", only=(1,), why="network_g is stepped on every iteration"),
    Rule("train.net_d_start_iter", why="this stage has no discriminator"),
    Rule("train.fidelity_weight", why="the fidelity weight of training is in train.schedule"),
    Rule("train.feat_loss_weight", ("train.feat_opt.loss_weight",)),
    Rule("train.entropy_loss_weight", ("train.code_opt.loss_weight",)),
    Rule("train.cross_entropy_loss", only=(True,), why="train.code_opt is the cross-entropy"),
    Rule("train.scale_adaptive_gan_weight", ("train.disc_weight",)),
    Rule("train.codebook_opt.type", why="the quantizer has its own loss"),
    Rule("train.codebook_opt.loss_weight", ("train.codebook_weight",)),
    Rule("train.codebook_opt", only=({}, None), why="see train.codebook_weight"),
    Rule("train.scheduler.restarts", only=([0],), why="a multi-step schedule does not restart"),
    Rule("train.perceptual_opt.use_input_norm", ("train.perceptual_opt.upstream_scaling",)),
    Rule("train.perceptual_opt.range_norm", why="part of upstream_scaling"),
    Rule("val.suffix", why="results lie in a folder of their own"),
    Rule("val.pbar", why="always shown"),
    Rule("val.use_pbar", why="always shown"),
    Rule("val.metrics.*.better", why="a metric knows its direction"),
)

# Types that are spelled otherwise upstream.
LEGACY_TYPES: dict[str, dict[str, str]] = {
    "train.scheduler.type": {"MultiStepRestartLR": "MultiStepLR"},
    "val.metrics.*.type": {"calculate_psnr": "PSNRMetric", "calculate_ssim": "SSIMMetric"},
}


def apply_legacy(tree: OptionTree, schema: Schema) -> list[str]:
    """Bring the old keys of `tree` to their new places; returns one warning line for each.

    Raises:
        OptionError: an old key asks for what is not there, or stands beside its new name.
    """
    for pattern, names in LEGACY_TYPES.items():
        for path, _ in expand(tree, pattern):
            node = tree.find(path)
            if node is not None and node.value in names:
                tree.put(path, Located(names[node.value], node.origin))
    lines = _uncorrupted(tree, schema)
    shared = {path: tree.find(path) for key in SHARED for path, _ in expand(tree, f"datasets.*.{key}")}
    for rule in LEGACY:
        for path, star in expand(tree, rule.old):
            if not schema.takes(tree, path):
                lines.append(_apply(tree, schema, rule, path, star))
    for path, node in shared.items():
        large = (*path[:-1], "degradation_large")
        # upstream states these once for both degradations
        if node is not None and tree.find(path) is None and tree.find(large) and not tree.find((*large, path[-1])):
            tree.put((*large, path[-1]), node)
    return lines


def expand(tree: OptionTree, pattern: str) -> Iterator[tuple[KeyPath, str]]:
    """Paths of the tree that match, each with what stands for `*`."""
    head, star, tail = pattern.partition("*")
    if not star:
        path = tuple(pattern.split("."))
        if tree.find(path) is not None:
            yield path, ""
        return
    parent = tree.find(tuple(head.strip(".").split(".")))
    for key in list(parent.value) if parent is not None and isinstance(parent.value, dict) else []:
        yield from ((path, key) for path, _ in expand(tree, f"{head}{key}{tail}"))


def _apply(tree: OptionTree, schema: Schema, rule: Rule, path: KeyPath, star: str) -> str:
    """Move or remove one old key; the warning line."""
    node, origin = tree.find(path), tree.origin(path)
    value = None if node is None else node.plain()
    if not rule.new:
        if rule.only is not None and value not in rule.only:
            raise tree.error(path, f"found {value!r}, which cannot be had here: {rule.why}.")
        tree.take(path)
        return f"{dotted(path)} is ignored: {rule.why}. ({origin})"
    if value in rule.off:
        tree.take(path)
        return f"{dotted(path)} is ignored: {value!r} is what holds without it. ({origin})"
    places = [tuple(place.replace("*", star).split(".")) for place in rule.new]
    target = next((place for place in places if schema.takes(tree, place)), places[0])
    if tree.find(target) is not None:
        raise tree.error(path, f"is the old name of {dotted(target)}, which is given too. Remove one of them.")
    if node is not None:
        tree.put(target, node)
    tree.take(path)
    return f"{dotted(path)} is now {dotted(target)}. ({origin})"


def _uncorrupted(tree: OptionTree, schema: Schema) -> list[str]:
    """`use_corrupt: false` (stage I: lq equals gt) is `degradation: ~`."""
    lines = []
    for path, _ in expand(tree, "datasets.*.use_corrupt"):
        node = tree.find(path)
        if node is not None and node.value is False and not schema.takes(tree, path):
            tree.take(path)
            tree.put((*path[:-1], "degradation"), Located(None, node.origin))
            lines.append(f"{dotted(path)} is now {dotted(path[:-1])}.degradation: ~. ({node.origin})")
    return lines
