"""Identity guidance: move the code prediction of a face towards the identity of reference images, without training.

For each face an offset d of the code logits l is optimized by Adam from d = 0:

    min_d  mean_E (1 - cos(E(view(image(l + d))), e_ref)) + kl * mean_tokens KL(softmax(l + d) || softmax(l))

`image` decodes the codes of l + d with a straight-through gradient (`CodeFormer.look_up`, ste_softmax), `view` is a
fresh jittered view of the face in each step, E a frozen recognizer, e_ref the mean embedding of the
references. Encoder and transformer run once. Any network, recognizer and fidelity weight will do; docs/results.md has
the measurements.

A recognizer sees about 112 px, so the loss of a wide network looks at a preview: the generator stops at a narrower
feature, and the image is expanded to first order in it. The linear map is fitted for each face by ridge regression on
its own image, every few steps anew; where it is fitted, the preview is the image.

Shapes: F faces; L tokens; K codes; D code width; h, w latent grid; S side of the face; E embedding width; Cf channels
of a generator feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.archs.blocks import adaptive_instance_norm
from basicsr.archs.codeformer_arch import CodeFormer, CodePrediction, FuseAt
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.losses.identity_loss import draw_view, look_at
from basicsr.models.identity_source import select_identities
from basicsr.recognizers import Recognizer
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.seed import rng_for

GUIDANCE_STREAM = 1014  # key of the random numbers of the views
FALLBACK_MARGIN = 0.6  # of a recognizer whose same-person cosine nobody measured
PREVIEW_WIDTH = 128  # px, least width of a feature: the recognizer's 112 px window is 3/4 of the face
PREVIEW_SCALE = 2  # pixels of the preview per position of the feature
FIT_EVERY = 3  # steps
RIDGE = 1e-4  # of the mean square of a feature
BETAS = (0.9, 0.95)  # of Adam: few steps, so a short memory of squares
EPSILON = 1e-8  # of Adam
GRADIENT_SCALE = 2.0**10  # float16 would lose small gradients of pixels; a power of two, so nothing else changes
MIN_NORM = 1e-3  # of a mean of unit vectors
KEPT_PIXELS = 2 * 512**2  # decoded pixels of a batch above which features are recomputed instead of kept


@dataclass(frozen=True)
class GuidanceOptions:
    """How far and how fast guidance moves a face.

    Args:
        steps: at most; each is one forward and backward of generator and recognizer. 0 changes nothing.
        kl: weight of the KL, per nat and token. The KL of a result is at most (1 - similarity before) / kl nat a token,
            unless guidance started from another frame.
        lr: Adam's step on the logits, falling as sqrt(1 - s / steps).
        margin: similarity of a step's view at which a face stops; None: what two images of one person typically have,
            by the recognizer's `same_person_cosine` or else FALLBACK_MARGIN. 1 never stops.
        views: jittered views in each step; 0 shows the face as it is.
        preview: let the loss look at a preview where the network is wide enough for one.
        seed: of the views.
    Raises:
        UserError: an argument is out of its range.
    """

    steps: int = 10
    kl: float = 1.0
    lr: float = 0.6
    margin: float | None = None
    views: int = 1
    preview: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("steps", 0), ("views", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise UserError(f"guidance: {name} is {getattr(self, name)}, expected at least {low}.")
        for name in ("kl", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"guidance: {name} is {value}, expected a finite number of at least 0.")
        if self.margin is not None and not -1 < self.margin <= 1:
            raise UserError(f"guidance: margin is {self.margin}, expected a cosine in (-1, 1].")


class GuidanceReport(NamedTuple):
    """What guidance did to one face. A similarity is the mean cosine to its references, over all recognizers."""

    steps: int
    similarity_before: float  # of the unguided result
    similarity_after: float
    kl: float  # nat a token
    stopped_at_margin: bool


class GuidedFaces(NamedTuple):
    """A batch after guidance."""

    restored: Tensor  # (F, 3, S, S) RGB, about [-1, 1], not clamped
    unguided: Tensor  # the same without guidance
    offset: Tensor  # d (F, L, K), to start the next frame of a video from
    reports: list[GuidanceReport]


class Preview(NamedTuple):
    """The image to first order in a feature of the generator, of each face by itself."""

    weight: Tensor  # (F, 3 * PREVIEW_SCALE**2, Cf)
    constant: Tensor  # (F, 3, PREVIEW_SCALE * h, PREVIEW_SCALE * h)


class IdentityGuidance:
    """Guides batches of faces with one network.

    Args:
        net: CodeFormer or IDCodeFormer, in eval mode.
        recognizers: one or more, frozen; the loss is their mean. None of them should judge the result.
    Raises:
        UserError: there is no recognizer.
    """

    def __init__(self, net: CodeFormer, recognizers: Sequence[Recognizer], options: GuidanceOptions) -> None:
        if not recognizers:
            raise UserError("guidance: needs a recognizer. Name its weights file.")
        self.net = net
        self.recognizers = list(recognizers)
        self.options = options
        margins = [margin_of(recognizer, options.margin) for recognizer in recognizers]
        self.margins = [margin if margin < 1 else math.inf for margin in margins]  # rounding takes a cosine above 1

    def __call__(
        self,
        lq: Tensor,
        targets: Sequence[Tensor],
        *,
        identity: IdentityFeatures | None = None,
        w: float = 0.0,
        w_id: float = 1.0,
        id_scale: float = 1.0,
        adain: bool = False,
        start: Tensor | None = None,
    ) -> GuidedFaces:
        """Restore degraded faces and guide them.

        Call it under the autocast that the network runs in, and not in torch.inference_mode, whose tensors take no part
        in a backward.

        Args:
            lq: (F, 3, S, S) RGB [-1, 1].
            targets: for each recognizer e_ref (F, E), see `mean_reference`.
            identity, w_id, id_scale: of IDCodeFormer, see its forward; guidance starts from the conditioned prediction.
            w, adain: see CodeFormer's forward.
            start: d to start from (F, L, K); None: 0.
        Raises:
            UserError: a target is no mean of unit vectors, or the loss is not finite.
        """
        for target in targets:
            validate_target(target)
        with torch.no_grad():
            if isinstance(self.net, IDCodeFormer):
                prediction = self.net.predict(lq, identity, w, w_id, id_scale)
            else:
                prediction = self.net.predict(lq, w)
        faces = _Faces(self.net, prediction, identity, w, w_id, adain)
        return self._optimize(faces, [target.detach() for target in targets], start)

    def similarity(self, images: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Mean cosine of each image (F, 3, S, S) to its references by each recognizer, (F, recognizers)."""
        pairs = zip(self.recognizers, targets, strict=True)
        return torch.stack([(net(images).embedding * target).sum(1) for net, target in pairs], 1)

    @property
    def preview_width(self) -> str | None:
        """Width of the feature that previews are read from; None where the loss looks at the image itself."""
        widths = [width for width in self.net.generator.ends if PREVIEW_WIDTH <= int(width) < self.net.img_size]
        return widths[0] if widths and self.options.preview else None

    def _optimize(self, faces: _Faces, targets: Sequence[Tensor], start: Tensor | None) -> GuidedFaces:
        options, width = self.options, self.preview_width
        preview: Preview | None = None
        with torch.no_grad():
            if width is None or options.steps == 0:
                plain = faces.decode(faces.prediction.logits)
            else:
                feature = faces.feature(faces.prediction.logits, width)
                plain = faces.finish(feature, width)
                preview = fit_preview(feature, plain)
        num = len(plain)
        begin = torch.zeros_like(faces.prediction.logits, dtype=torch.float32) if start is None else start
        offsets = [begin[i].clone().requires_grad_() for i in range(num)]
        adam = [_Adam(d) for d in offsets]
        margins = plain.new_tensor(self.margins)
        steps, stopped, active = [0] * num, [False] * num, list(range(num))
        part, goals = faces, list(targets)
        side = int(width) if width is not None else self.net.img_size
        kept = self.net.generator.checkpointing
        self.net.generator.checkpointing = kept or num * side**2 > KEPT_PIXELS
        try:
            for step in range(options.steps):
                with torch.enable_grad():
                    logits = part.prediction.logits + torch.stack([offsets[i] for i in active])
                    if preview is None or width is None:
                        image = part.decode(logits)
                    else:
                        feature = part.feature(logits, width)
                        if step % FIT_EVERY == 0 and (step or start is not None):
                            with torch.no_grad():
                                preview = fit_preview(feature.detach(), part.finish(feature.detach(), width))
                        image = show_preview(preview, feature)
                    cosines = self._cosines(image, goals, step)  # (A, recognizers)
                    loss = (1 - cosines).mean(1) + options.kl * token_kl(logits, part.prediction.logits)
                    total = GRADIENT_SCALE * loss.sum()  # in here: the caller may compute without gradients
                reached = (cosines.detach() >= margins).all(1).tolist()
                for i, done in zip(active, reached, strict=True):
                    stopped[i] = done
                moved = [i for i in active if not stopped[i]]
                if not moved:
                    break
                _validate_finite(loss)
                gradients = torch.autograd.grad(total, [offsets[i] for i in moved])
                lr = options.lr * math.sqrt(1 - step / options.steps)
                for i, gradient in zip(moved, gradients, strict=True):
                    adam[i].step(gradient / GRADIENT_SCALE, lr)
                    steps[i] += 1
                if moved != active:
                    places = [active.index(i) for i in moved]
                    part, goals, active = part.select(places), [goal[places] for goal in goals], moved
                    if preview is not None:
                        preview = Preview(preview.weight[places], preview.constant[places])
        finally:
            self.net.generator.checkpointing = kept
        offset, warm = torch.stack([d.detach() for d in offsets]), begin.abs().amax((1, 2)) > 0
        return self._result(faces, plain, offset, warm, targets, steps, stopped)

    def _cosines(self, images: Tensor, targets: Sequence[Tensor], step: int) -> Tensor:
        """The mean similarity of the views of this step, (F, recognizers)."""
        size, num = images.shape[-1], self.options.views
        if num == 0:
            return self.similarity(images, targets)
        views = [draw_view(rng_for(GUIDANCE_STREAM, self.options.seed, step, k), size) for k in range(num)]
        return torch.stack([self.similarity(look_at(images, view), targets) for view in views]).mean(0)

    @torch.no_grad()
    def _result(
        self,
        faces: _Faces,
        plain: Tensor,
        offset: Tensor,
        warm: Tensor,
        targets: Sequence[Tensor],
        steps: Sequence[int],
        stopped: Sequence[bool],
    ) -> GuidedFaces:
        """Decode in full. A face whose loss has not fallen keeps its unguided result.

        Where guidance started from another frame's offset (`warm` (F,)), the similarity decides alone: that offset cost
        its KL already, and to drop it in one frame would show as a jump.
        """
        before = self.similarity(plain, targets).mean(1)  # (F,)
        logits = faces.prediction.logits + offset
        moved = offset.abs().amax((1, 2)) > 0
        restored = faces.decode(logits) if moved.any() else plain
        after = self.similarity(restored, targets).mean(1)
        kl = token_kl(logits, faces.prediction.logits)
        fell = torch.where(warm, after > before, 1 - after + self.options.kl * kl <= 1 - before)
        better = moved & fell
        kept = (better | ~moved).tolist()
        restored = torch.where(better[:, None, None, None], restored, plain)
        after, kl = torch.where(better, after, before), torch.where(better, kl, torch.zeros_like(kl))
        offset = torch.where(better[:, None, None], offset, torch.zeros_like(offset))
        ends = [done and same for done, same in zip(stopped, kept, strict=True)]
        columns = [before.tolist(), after.tolist(), kl.clamp_min(0).tolist()]
        return GuidedFaces(
            restored, plain, offset, [GuidanceReport(*row) for row in zip(steps, *columns, ends, strict=True)]
        )


class _Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) on one tensor. torch.optim first imports a compiler, for seconds."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)
        self.num_steps = 0

    @torch.no_grad()
    def step(self, gradient: Tensor, lr: float) -> None:
        self.num_steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.lerp_(gradient.square(), 1 - BETAS[1])
        scale = (self.square / (1 - BETAS[1] ** self.num_steps)).sqrt() + EPSILON
        self.value.sub_(lr / (1 - BETAS[0] ** self.num_steps) * self.mean / scale)


class _Faces(NamedTuple):
    """A batch between prediction and decoding."""

    net: CodeFormer
    prediction: CodePrediction
    identity: IdentityFeatures | None
    w: float
    w_id: float
    adain: bool

    def select(self, places: Sequence[int]) -> _Faces:
        """Some of the faces."""
        logits, lq_feat, taps = self.prediction
        taps = {width: tap[places] for width, tap in taps.items()}
        prediction = CodePrediction(logits[places], lq_feat[places], taps)
        identity = None if self.identity is None else select_identities(self.identity._replace(photos=None), places)
        return self._replace(prediction=prediction, identity=identity)

    @property
    def fuse_at(self) -> FuseAt:
        """What is done to the generator's features."""
        if isinstance(self.net, IDCodeFormer):
            return self.net.ia_cft_at(self.prediction.taps, self.identity, self.w, self.w_id, None)
        return self.net.cft_at(self.prediction.taps, self.w, None)

    def look_up(self, logits: Tensor) -> Tensor:
        """Codebook rows (F, D, h, w), with a straight-through gradient to the logits (F, L, K)."""
        quant_feat = self.net.look_up(logits, "ste_softmax", True)
        return adaptive_instance_norm(quant_feat, self.prediction.lq_feat) if self.adain else quant_feat

    def decode(self, logits: Tensor) -> Tensor:
        """The images (F, 3, S, S), as the network's forward makes them."""
        image: Tensor = self.net.generator(self.look_up(logits), self.fuse_at)
        return image.float()

    def feature(self, logits: Tensor, width: str) -> Tensor:
        """The generator's last feature of that width (F, Cf, width, width)."""
        return self.net.generator.forward_to(width, self.look_up(logits), self.fuse_at)

    def finish(self, feature: Tensor, width: str) -> Tensor:
        """The images of what `feature` gave; together they are `decode`."""
        return self.net.generator.forward_from(width, feature, self.fuse_at).float()


def fit_preview(feature: Tensor, image: Tensor) -> Preview:
    """Fit the preview at a feature (F, Cf, h, h) and its image (F, 3, S, S): ridge regression of one on the other."""
    side = PREVIEW_SCALE * feature.shape[-1]
    with torch.autocast(feature.device.type, enabled=False):
        shown = F.interpolate(image.float(), (side, side), mode="bilinear", antialias=True)
        target = F.pixel_unshuffle(shown, PREVIEW_SCALE).flatten(2)  # (F, 12, N)
        rows = feature.float().flatten(2)  # (F, Cf, N)
        rows, target = rows - rows.mean(2, keepdim=True), target - target.mean(2, keepdim=True)
        gram = rows @ rows.transpose(1, 2)  # (F, Cf, Cf)
        ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(gram.shape[1]).to(gram)
        weight = torch.linalg.solve(gram + ridge, rows @ target.transpose(1, 2)).transpose(1, 2)  # (F, 12, Cf)
        preview = Preview(weight, torch.zeros_like(shown))
        return preview._replace(constant=shown - show_preview(preview, feature))


def show_preview(preview: Preview, feature: Tensor) -> Tensor:
    """The preview (F, 3, 2h, 2h) of a feature (F, Cf, h, h)."""
    with torch.autocast(feature.device.type, enabled=False):
        read = preview.weight @ feature.float().flatten(2)  # (F, Cf, N) -> (F, 12, N)
    read = read.view(*read.shape[:2], *feature.shape[-2:])
    return F.pixel_shuffle(read, PREVIEW_SCALE) + preview.constant


def token_kl(logits: Tensor, reference: Tensor) -> Tensor:
    """Mean over the tokens of KL(softmax logits || softmax reference), (F, L, K) both -> (F,), nat."""
    log_p, log_q = F.log_softmax(logits.float(), 2), F.log_softmax(reference.float(), 2)
    kl: Tensor = (log_p.exp() * (log_p - log_q)).sum(2).mean(1)
    return kl


def mean_reference(embeddings: Tensor, mask: Tensor) -> Tensor:
    """e_ref (F, E): the mean of each face's reference embeddings (F, R, E), where mask (F, R) has them.

    Not normalized: the product with an embedding is the mean of its cosines to the references, for any number of them.

    Raises:
        ImageFileError: they cancel, or one is not finite, so that they point at nobody.
    """
    total = torch.where(mask[:, :, None], embeddings, 0.0).sum(1)
    mean: Tensor = total / mask.sum(1, keepdim=True).clamp_min(1)
    if not (mean.norm(dim=1) > MIN_NORM).all():  # NaN is not above it either
        raise ImageFileError("the references of a face have no identity in common (their mean embedding has length 0).")
    return mean


def margin_of(recognizer: Recognizer, given: float | None) -> float:
    """The cosine at which a face counts as recognized by this recognizer."""
    measured = recognizer.spec.same_person_cosine
    if given is not None:
        return given
    return FALLBACK_MARGIN if measured is None else measured


def validate_target(target: Tensor) -> None:
    """Refuse what is no identity.

    Raises:
        UserError: a row of target (F, E) is no mean of unit vectors, or has no length.
    """
    norm = target.norm(dim=1)
    if not ((norm > MIN_NORM) & (norm < 1 + 1e-3)).all():
        raise UserError(
            f"guidance: a reference embedding has length {norm.max():.3g}, expected more than 0, at most 1."
        )


def _validate_finite(loss: Tensor) -> None:
    if not loss.isfinite().all():
        raise UserError("guidance: the loss is not finite: broken weights, or a learning rate far too large.")
