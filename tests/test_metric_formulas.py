"""FID, NIQE, landmark distance and the face region against formulas that stand here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import tiny_photo

from basicsr.metrics.face_metric import FaceLPIPSMetric, FacePSNRMetric
from basicsr.metrics.face_region import face_ellipse
from basicsr.metrics.fid import FeatureNet, GaussianStatistics, ReferenceStatistics, frechet_distance
from basicsr.metrics.landmarks import LOST_FACE, landmark_distance
from basicsr.metrics.niqe import PristineModel, asymmetric_fit, halved, niqe, patch_features, read_pristine
from basicsr.metrics.psnr_ssim_metric import PSNRMetric
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.lpips_net import random_lpips


def gaussian(rng: np.random.Generator, dims: int = 8) -> tuple[np.ndarray, np.ndarray]:
    root = rng.normal(size=(dims, dims))
    return rng.normal(size=dims), root @ root.T


def test_frechet_distance_equals_the_formula_with_the_matrix_root(rng: np.random.Generator) -> None:
    (m1, s1), (m2, s2) = gaussian(rng), gaussian(rng)
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_a_set_to_itself_is_zero_also_when_its_covariance_is_singular(
    rng: np.random.Generator,
) -> None:
    features = rng.normal(size=(5, 12))
    mean, cov = features.mean(0), np.cov(features, rowvar=False)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-6)


def test_moments_of_batches_and_merged_shares_are_those_of_numpy(rng: np.random.Generator) -> None:
    features = rng.normal(3, 2, (50, 6))
    one, other = GaussianStatistics(), GaussianStatistics()
    for part in (features[:7], features[7:20]):
        one.add(part)
    other.add(features[20:])
    one.merge(other)
    assert one.n == 50
    assert np.allclose(one.mean, features.mean(0), rtol=1e-12)
    assert np.allclose(one.cov, np.cov(features, rowvar=False), rtol=1e-10)


def test_reference_statistics_are_read_under_both_pairs_of_names(tmp_path: Path, rng: np.random.Generator) -> None:
    mean, cov = gaussian(rng)
    np.savez(tmp_path / "a.npz", mu=mean, sigma=cov)
    np.savez(tmp_path / "b.npz", mean=mean, cov=cov)
    one, other = (ReferenceStatistics.read(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert np.array_equal(one.cov, cov)
    assert np.array_equal(other.mean, mean)
    np.savez(tmp_path / "c.npz", mean=mean)
    with pytest.raises(UserError, match=r"c\.npz: holds mean; expected mu and sigma"):
        ReferenceStatistics.read(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read as FID statistics"):
        ReferenceStatistics.read(tmp_path / "d.npz")


class Channels(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_a_feature_network_sees_the_stated_range_and_size(tmp_path: Path) -> None:
    torch.jit.trace(Channels(), torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "net.pt"))
    net = FeatureNet(tmp_path / "net.pt", side=8, pixel_range="0..255")
    assert net(torch.full((2, 3, 16, 16), 1.0)) == pytest.approx(255.0)
    assert net(torch.full((2, 3, 8, 8), -1.0)).shape == (2, 3)
    with pytest.raises(WeightsError, match="no such feature network"):
        FeatureNet(tmp_path / "gone.pt")
    (tmp_path / "broken.pt").write_bytes(b"x")
    with pytest.raises(WeightsError, match="cannot be loaded as TorchScript"):
        FeatureNet(tmp_path / "broken.pt")


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 3.0])
def test_the_fit_finds_the_shape_and_scales_that_made_the_samples(shape: float, rng: np.random.Generator) -> None:
    left, right = 1.0, 2.0  # density falls as exp(-(|x| / scale)^shape)
    size = rng.gamma(1 / shape, 1.0, (1, 400_000)) ** (1 / shape)
    goes_right = rng.random(size.shape) < right / (left + right)
    samples = np.where(goes_right, right * size, -left * size)
    found, found_left, found_right, mean = (float(value[0]) for value in asymmetric_fit(samples))
    assert found == pytest.approx(shape, rel=0.03)
    assert (found_left, found_right) == (pytest.approx(left, rel=0.03), pytest.approx(right, rel=0.03))
    assert mean == pytest.approx(samples.mean(), abs=0.02)


def test_halving_keeps_a_ramp_and_removes_what_would_alias() -> None:
    ramp = np.tile(np.arange(64.0), (64, 1))
    assert np.allclose(halved(ramp)[8:24, 8:24], (2 * np.arange(32.0) + 0.5)[8:24])
    stripes = np.tile([0.0, 255.0], (64, 32))
    assert np.ptp(halved(stripes)[8:24, 8:24]) < 1e-6


def test_niqe_grows_with_noise_and_blur_and_is_the_stated_distance(rng: np.random.Generator) -> None:
    import cv2

    photos = [tiny_photo(rng, 192, 288) for _ in range(4)]
    features = np.concatenate([patch_features(photo) for photo in photos])
    assert features.shape == (4 * 6, 36)
    model = PristineModel(features.mean(0), np.cov(features, rowvar=False), "")
    plain = niqe(photos[0], model)
    own = patch_features(photos[0])
    difference = own.mean(0) - model.mean
    pooled = np.linalg.pinv((np.cov(own, rowvar=False) + model.cov) / 2)
    assert plain == pytest.approx(np.sqrt(difference @ pooled @ difference), rel=1e-9)
    assert niqe(np.asarray(cv2.GaussianBlur(photos[0], (0, 0), 3), np.uint8), model) > plain + 1
    with pytest.raises(UserError, match="192 pixels a side"):
        niqe(photos[0][:100], model)


def test_niqe_parameters_are_read_from_npz_and_mat(tmp_path: Path, rng: np.random.Generator) -> None:
    from scipy.io import savemat

    mean, cov = gaussian(rng, 36)
    np.savez(tmp_path / "p.npz", mu=mean, cov=cov)
    savemat(tmp_path / "p.mat", {"mu_prisparam": mean[None], "cov_prisparam": cov})
    for name in ("p.npz", "p.mat"):
        model = read_pristine(tmp_path / name)
        assert np.allclose(model.mean, mean)
        assert np.allclose(model.cov, cov)
    np.savez(tmp_path / "q.npz", mu=mean[:5], cov=cov)
    with pytest.raises(UserError, match=r"expected mu \(36\)"):
        read_pristine(tmp_path / "q.npz")


def test_landmark_distance_is_in_parts_of_the_eye_distance_and_a_lost_face_counts_in_full() -> None:
    gt = np.array([(10.0, 10), (30, 10), (20, 20), (12, 30), (28, 30)])
    assert landmark_distance(gt + [2.0, 0.0], gt) == pytest.approx(10.0)
    assert landmark_distance(None, gt) == LOST_FACE
    assert landmark_distance(gt + 1000, gt) == LOST_FACE


def test_face_psnr_counts_the_pixels_of_the_ellipse_or_of_the_mask_alone() -> None:
    gt = torch.zeros(1, 3, 64, 64)
    inside = face_ellipse(64, 64)
    outside_changed = torch.where(inside, gt, torch.ones_like(gt))
    metric = FacePSNRMetric()
    assert metric.measure(outside_changed, gt).item() == float("inf")
    assert torch.allclose(metric.measure(gt + 0.1, gt), PSNRMetric().measure(gt + 0.1, gt))
    everywhere = metric.reference(gt, torch.ones(1, 64, 64, dtype=torch.bool))
    expected = PSNRMetric().measure(outside_changed, gt)
    assert torch.allclose(FacePSNRMetric(with_masks=True).compare(outside_changed, everywhere), expected)


def test_face_lpips_is_the_weighted_mean_of_the_same_maps(tmp_path: Path) -> None:
    state = random_lpips("squeeze").net.state_dict()
    torch.save({f"features.{key.split('.', 1)[1]}": value for key, value in state.items()}, tmp_path / "s.pth")
    metric = FaceLPIPSMetric("squeeze", str(tmp_path / "s.pth"))
    gt = torch.rand(1, 3, 64, 64) * 2 - 1
    assert metric.measure(gt, gt).item() == 0
    net = metric.net
    restored = torch.rand(1, 3, 64, 64) * 2 - 1
    maps = net.maps(net.features(restored), net.features(gt))
    # with a mask of ones the weighted mean is the plain one
    assert torch.allclose(net.pooled(maps, torch.ones(1, 1, 64, 64)), net(restored, gt), rtol=1e-5)
    corner = restored.clone()
    corner[..., 20:50, 20:44] = gt[..., 20:50, 20:44]  # the face is right, the background is not
    assert metric.measure(corner, gt) < 0.7 * net(corner, gt)
