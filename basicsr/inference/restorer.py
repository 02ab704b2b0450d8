"""Restore aligned faces with a weights file and, where there are some, reference photos of the person.

Shapes: B faces; R references; S side of the network's picture.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from basicsr.archs.codeformer_arch import CodeFormerOutput
from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.archs.kv_share import ReferencePhotos
from basicsr.archs.self_encoder_arch import SelfEncoder
from basicsr.inference.execution import Precision, choose_precision, compiled, one_at_a_time, store_weights_as
from basicsr.inference.parts import UsedFile, load_network, recognizer_of, self_encoder_of
from basicsr.inference.values import (
    Device,
    FaceGuidance,
    KnobOptions,
    Knobs,
    Photo,
    PhotoOptions,
    References,
    RestoredFace,
    as_list,
    check_knobs,
    choose_device,
    describe_face,
    mode_in_use,
    one_for_each,
    read_aligned,
    read_photo,
)
from basicsr.models.identity_guidance import (
    GuidanceOptions,
    GuidedFaces,
    IdentityGuidance,
    margin_of,
    mean_reference,
)
from basicsr.models.identity_source import (
    MODE_CODES,
    IdentityMode,
    fixed_modes,
    identity_features,
    select_identities,
    stack_identities,
)
from basicsr.recognizers import Recognizer, find_recognizer, load_recognizer
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import img2tensor, tensor2img
from basicsr.utils.weights import sha256_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from basicsr.faces import FaceDetector
    from basicsr.inference.gallery import Gallery
    from basicsr.inference.photo import Painter, RestoredPhoto


OVER_GUIDED = 0.1  # cosine above what two images of one person typically have; the deviation is .10 to .13


class FaceRestorer:
    """A network with its weights, and the recogniser (and E_LQ) that it was trained with.

    Any number of threads may use one object: their calls take turns, and give what they give alone.

    Args:
        weights: `.pth` of train.py or `.safetensors` of scripts/convert_weights.py (both say themselves which network
            they are for), or released CodeFormer weights.
        recognizer: recognizer file, where it is not at the path that the weights name. Weights that take no identity
            use it for identity guidance, see `restore_batch`.
        device: see `choose_device`.
        param_key: which weights of the file: the averaged ones as a rule.
        self_encoder: file of E_LQ, where it is not at the path that the weights name.
        precision: see `choose_precision`; the released arithmetic is float32.
        compile_net: torch.compile the network: minutes at the first face of each batch size, no gain on a CPU. Guided
            faces run uncompiled.
    Raises:
        UserError: there is no such device or precision.
        WeightsError: one of the files is missing or broken, or they do not belong together.
    """

    def __init__(
        self,
        weights: str | Path,
        recognizer: str | Path | None = None,
        device: Device = "auto",
        param_key: str = "params_ema",
        self_encoder: str | Path | None = None,
        precision: Precision = "float32",
        compile_net: bool = False,
    ) -> None:
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.lock = threading.RLock()
        net, contents = load_network(weights, param_key)
        # a CPU convolves a quarter faster with the channels innermost, at 64 px as at 512
        self.layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.net = net.to(self.device).to(memory_format=self.layout).eval().requires_grad_(False)
        if self.dtype != torch.float32:
            store_weights_as(self.net, self.dtype)
        self._forward: Callable[..., CodeFormerOutput] = compiled(self.net) if compile_net else self.net
        self.takes_identity = isinstance(net, IDCodeFormer)
        self.recognizer: Recognizer | None = None
        self.self_encoder: SelfEncoder | None = None
        self.weights_file = UsedFile(str(weights), sha256_of(weights))
        self.recognizer_file: UsedFile | None = None
        if self.takes_identity:
            found, self.recognizer_file = recognizer_of(str(weights), contents, recognizer)
            self.recognizer = found.to(self.device)
            self.self_encoder = self_encoder_of(str(weights), contents, self_encoder, self.recognizer)
            if self.self_encoder is not None:
                self.self_encoder.to(self.device)
        elif recognizer is not None:
            self.recognizer = load_recognizer(recognizer).to(self.device)
            file = find_recognizer(recognizer)
            self.recognizer_file = UsedFile(str(file), self.recognizer.spec.sha256)

    @property
    def size(self) -> int:
        """Side of the faces that the network restores, px."""
        return self.net.img_size

    @one_at_a_time
    @torch.no_grad()
    def encode_references(self, refs: Photo | Sequence[Photo]) -> IdentityFeatures:
        """What the networks take from the reference photos of one person (at least one), in place of the photos.

        To be made once where many faces of the person are restored: the recogniser, and with `inject: kv_share` encoder
        and transformer of the network, then see each reference once.

        Raises:
            UserError: the network takes no identity, or there is no photo.
            ImageFileError: see `restore_batch`.
        """
        images, features = self._read_references(refs)
        if not isinstance(self.net, IDCodeFormer) or self.net.inject != "kv_share":
            return features
        with self._autocast():
            return features._replace(photos=self.net.reference_cache(ReferencePhotos(images, features.mask)))

    def restore(self, photo: Photo, refs: References = (), **knobs: Unpack[KnobOptions]) -> RestoredFace:
        """Restore one aligned face, with one reference photo, several, or none; see `restore_batch` for the knobs."""
        return self.restore_batch([photo], [refs], **knobs)[0]

    @one_at_a_time
    @torch.no_grad()
    def restore_batch(
        self,
        photos: Sequence[Photo],
        refs: Sequence[References] = (),
        *,
        w: float = 0.5,
        w_id: float = 1.0,
        id_scale: float = 1.0,
        mode: IdentityMode | Sequence[IdentityMode | None] | None = None,
        adain: bool | None = None,
        guide: int | GuidanceOptions | None = None,
        guide_from: Sequence[Tensor | None] = (),
    ) -> list[RestoredFace]:
        """Restore aligned faces (FFHQ framing, square, any size: they are resized).

        Args:
            photos: B degraded faces, files or arrays, uint8 BGR (S, S, 3).
            refs: for each face its reference photos, aligned in the same way, or what encode_references() made of them;
                empty: no face has any.
            w: fidelity to the degraded photo, 0 (quality) .. 1.
            w_id: strength of the identity styling; 0 turns it off.
            id_scale: scale of the identity's effect on the code prediction: 0 without it, 1 plain, above 1 exaggerated.
            mode: ref, self (the degraded photo's own identity) or none; None: ref where there are any, else self. A
                sequence says it for each face.
            adain: give the codes the statistics of the degraded features; None: as the network was made to be used.
            guide: steps of identity guidance towards the references, of the faces that are restored with them; None:
                GuidanceOptions' default for weights that take no identity, 0 for those that do.
            guide_from: for each face the offset that guidance starts from: `FaceGuidance.offset` of an earlier frame.
        Raises:
            UserError: a parameter is out of its range, see `check_knobs` and GuidanceOptions; there are not as many
                refs as photos; guidance is asked for and there is no recognizer; or the network answers with NaN.
            ImageFileError: an image cannot be read, or is not square.
        """
        check_knobs(w, w_id, id_scale)
        options = self.guidance_options(guide)
        its_refs = one_for_each(refs, len(photos))
        self._validate_starts(guide_from, len(photos))
        if not len(photos):
            return []
        lq = torch.stack([self._tensor(photo) for photo in photos])  # (B, 3, S, S)
        lq = lq.contiguous(memory_format=self.layout)
        adain = not self.takes_identity if adain is None else adain
        asked = [mode] * len(photos) if mode is None or isinstance(mode, str) else mode
        known: list[IdentityFeatures | None] = [None] * len(photos)
        if self.recognizer is not None:
            known = [self._encoded(*pair) for pair in zip(its_refs, asked, strict=True)]
        if isinstance(self.net, IDCodeFormer):
            used = [mode_in_use(one, features is not None) for one, features in zip(asked, known, strict=True)]
            identity = self._identity(lq, known, used)
            used = [m if found else "none" for m, found in zip(used, identity.mask.any(1).tolist(), strict=True)]
            inputs = {"identity": identity, "w": w, "w_id": w_id, "id_scale": id_scale, "adain": adain}
        else:  # references act on it through guidance alone
            guides = [options.steps > 0 and m in (None, "ref") for m in asked]
            used = ["none" if f is None or not guide else "ref" for f, guide in zip(known, guides, strict=True)]
            inputs = {"w": w, "adain": adain}
        guided = [i for i, m in enumerate(used) if m == "ref" and options.steps > 0]
        restored = lq if len(guided) == len(photos) else self._restored(lq, **inputs)
        guidance: dict[int, FaceGuidance] = {}
        if guided:
            features = [cast(IdentityFeatures, known[i]) for i in guided]
            starts = [guide_from[i] for i in guided] if guide_from else []
            some = lq[guided].contiguous(memory_format=self.layout)
            faces = self._guided(some, features, options, _at(inputs, guided), starts)
            restored = restored.index_copy(0, torch.tensor(guided, device=self.device), faces.restored)
            guidance = dict(zip(guided, self._describe_guidance(faces, features), strict=True))
        before, after = self._similarities(lq, known), self._similarities(restored, known)
        styled = self.takes_identity
        return [
            describe_face(
                tensor2img(image), used[i], before[i], after[i],
                Knobs(w, adain, *((w_id, id_scale) if styled and used[i] != "none" else (None, None))), guidance.get(i),
            )
            for i, image in enumerate(restored)
        ]  # fmt: skip

    def _validate_starts(self, guide_from: Sequence[Tensor | None], num_photos: int) -> None:
        shape = (self.net.latent_width**2, self.net.quantize.codebook_size)
        if len(guide_from) not in (0, num_photos):
            raise UserError(f"guide_from: {len(guide_from)} offsets for {num_photos} photos, expected one for each.")
        for offset in guide_from:
            if offset is not None and (offset.shape != shape or not offset.isfinite().all()):
                raise UserError(f"guide_from: found {tuple(offset.shape)}, expected finite offsets of shape {shape}.")

    def guidance_options(self, guide: int | GuidanceOptions | None) -> GuidanceOptions:
        """What `guide` of `restore_batch` stands for.

        Raises:
            UserError: it is negative, or there is no recognizer for it.
        """
        if isinstance(guide, GuidanceOptions):
            options = guide
        elif guide is not None:
            options = GuidanceOptions(steps=guide)
        else:
            options = GuidanceOptions() if self.recognizer and not self.takes_identity else GuidanceOptions(steps=0)
        if options.steps and self.recognizer is None:
            raise UserError(
                f"{self.weights_file.path}: guidance needs a recognizer, and these weights name none. Give its file: "
                "--recognizer FILE."
            )
        return options

    def _guided(
        self,
        lq: Tensor,
        features: Sequence[IdentityFeatures],
        options: GuidanceOptions,
        inputs: dict[str, Any],
        starts: Sequence[Tensor | None],
    ) -> GuidedFaces:
        """Restore faces (F, 3, S, S) and guide each to its own references. `inputs`: of the network, beside lq."""
        target = torch.cat([mean_reference(f.embed, f.mask) for f in features])  # (F, E)
        start = None
        if any(one is not None for one in starts):
            zero = next(torch.zeros_like(one) for one in starts if one is not None)
            start = torch.stack([zero if one is None else one for one in starts]).to(self.device)  # (F, L, K)
        with self._autocast():
            faces = IdentityGuidance(self.net, [self._recognizer()], options)(lq, [target], start=start, **inputs)
        _validate_finite(faces.restored)
        return faces

    def _describe_guidance(self, faces: GuidedFaces, features: Sequence[IdentityFeatures]) -> list[FaceGuidance]:
        """What guidance did to each face."""
        unguided = self._similarities(faces.unguided, features)
        return [
            FaceGuidance(
                report,
                self.is_over_guided(report.kl, report.similarity_after),
                tuple(cosines),
                faces.offset[i].cpu().clone(),
            )
            for i, (report, cosines) in enumerate(zip(faces.reports, unguided, strict=True))
        ]

    def is_over_guided(self, kl: float, similarity_after: float) -> bool:
        """Whether guidance made a face more similar to its reference than two images of one person usually are."""
        # not by the steps: a start in an earlier frame's offset may move a face in none
        return kl > 0 and similarity_after > margin_of(self._recognizer(), None) + OVER_GUIDED

    def restore_photo(self, photo: Photo, refs: References = (), **how: Unpack[PhotoOptions]) -> RestoredPhoto:
        """Restore the faces of one whole photo; see `restore_photos` for the rest."""
        return self.restore_photos([photo], [refs], **how)[0]

    def restore_photos(
        self,
        photos: Sequence[Photo],
        refs: Sequence[References] = (),
        *,
        detector: FaceDetector,
        gallery: Gallery | None = None,
        painter: Painter | None = None,
        only_center_face: bool = False,
        batch_size: int = 4,
        **knobs: Unpack[KnobOptions],
    ) -> list[RestoredPhoto]:
        """Find, align and restore the faces of whole photos, in batches across them, and paste them back.

        Args:
            refs: for each photo, aligned references of the person, for every face of it; see `ReferenceReader`.
            detector: see `basicsr.faces.load_detector`.
            gallery: people of whom each face may be one; its references take the place of `refs`, and whoever is
                nobody of it is restored blind (mode none).
            painter: how faces are pasted and the photo is enlarged; None: `Painter()`.
            knobs: see `restore_batch`.
        Raises:
            ImageFileError: no face is found in one of them, or it cannot be read.
        """
        from basicsr.inference import photo as whole  # at call time: it knows this class

        its_refs = one_for_each(refs, len(photos))
        named, painter = [read_photo(photo) for photo in photos], painter or whole.Painter()
        return whole.restore_photos(
            self, named, its_refs, detector, gallery, painter, only_center_face, batch_size, **knobs
        )

    @one_at_a_time
    @torch.no_grad()
    def embed(self, faces: Sequence[Photo]) -> Tensor:
        """Identity (B, E), unit length, of aligned faces of one size (at least one), by the network's recogniser.

        Raises:
            UserError: the network has none.
            ImageFileError: a picture cannot be read.
        """
        pictures = torch.stack([img2tensor(read_photo(face)[1]) for face in faces])
        return self._recognizer()(pictures.to(self.device)).embedding

    def _recognizer(self) -> Recognizer:
        if self.recognizer is None:
            raise UserError(f"{self.weights_file.path}: takes no identity, so a recognizer must be given for guidance.")
        return self.recognizer

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _restored(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the network restores, (B, 3, S, S) float32.

        Raises:
            UserError: something in it is not finite: saved, it would be a picture like any other.
        """
        with self._autocast():
            restored = cast(Tensor, self._forward(*args, **kwargs).restored).float()
        _validate_finite(restored)
        return restored

    def _tensor(self, photo: Photo) -> Tensor:
        """A photo as the network takes it, (3, S, S)."""
        return img2tensor(read_aligned(photo, self.size)).to(self.device)

    def _read_references(self, refs: Photo | Sequence[Photo]) -> tuple[Tensor, IdentityFeatures]:
        """The photos of one person (1, R, 3, S, S), and what the recogniser says of them."""
        refs = as_list(refs)
        if not refs:
            raise UserError("no reference photo was given, expected at least one.")
        images = torch.stack([self._tensor(photo) for photo in refs])[None]
        mask = torch.ones(images.shape[:2], dtype=torch.bool, device=self.device)
        modes = fixed_modes("ref", 1, self.device)
        features = identity_features(self._recognizer(), images[:, 0], images, mask, modes)
        return images, features._replace(photos=None)

    def _encoded(self, refs: References, mode: IdentityMode | None) -> IdentityFeatures | None:
        """The references of one face as the networks take them; None without any."""
        if isinstance(refs, IdentityFeatures):
            return refs
        refs = as_list(refs)
        if not refs:
            return None
        # the modes self and none compare with the references, and restore without them
        return self.encode_references(refs) if mode in (None, "ref") else self._read_references(refs)[1]

    def _identity(
        self, lq: Tensor, known: Sequence[IdentityFeatures | None], used: Sequence[IdentityMode]
    ) -> IdentityFeatures:
        """The identity of each face: its references, its degraded photo itself, or nothing."""
        modes = torch.tensor([MODE_CODES["none" if mode == "ref" else mode] for mode in used], device=self.device)
        own = identity_features(self._recognizer(), lq, None, None, modes, self.self_encoder)
        if "ref" not in used:
            return own
        samples = []
        for i, (features, mode) in enumerate(zip(known, used, strict=True)):
            self_or_none = IdentityFeatures(*(part[i : i + 1] for part in own[:4]))  # type: ignore[arg-type]
            samples.append(features if features is not None and mode == "ref" else self_or_none)
        return stack_identities(samples)

    def _similarities(self, faces: Tensor, known: Sequence[IdentityFeatures | None]) -> list[list[float]]:
        """Cosine of each face to each of its references."""
        if all(features is None for features in known):
            return [[] for _ in known]
        embedding = self._recognizer()(faces).embedding  # (B, E)
        pairs = zip(known, embedding, strict=True)
        return [[] if features is None else (features.embed[0] @ face).tolist() for features, face in pairs]


def _at(inputs: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """The inputs of the network for some faces of a batch."""
    identity = inputs.get("identity")
    return inputs if identity is None else {**inputs, "identity": select_identities(identity, places)}


def _validate_finite(restored: Tensor) -> None:
    if not restored.isfinite().all():
        raise UserError(
            "the network gives values that are not finite: broken weights, or w, w_id or id_scale far too large."
        )
