"""Blur and the resize that follows it, in one step where that is quicker.

Blurring 512 px to keep 30 is most of the degradation's time. A kernel is a sum of R outer products, and blurring with
an outer product, then sampling n x n points bilinearly, is one matrix from the left and one from the right: where R and
n are small, only the samples that are kept get computed.

Shapes: K kernel size, odd; S side of the picture; n side after the resize; R rank of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from basicsr.data.blur_kernels import BlurKernel, FloatImage

# Multiplications per pixel and channel at which computing the kept samples alone takes as long as OpenCV's filters.
MAX_COST_ISO, MAX_COST_ANISO = 140, 250
MIN_FUSED_KERNEL = 13  # px: for smaller kernels filter2D needs no Fourier transform and is quick
ROWS_AT_ONCE = 4  # rows of n that share one matrix product


def blur_and_resize(image: FloatImage, kernel: BlurKernel, side: int) -> FloatImage:
    """Correlate with the kernel (border reflected without its edge pixel), then resize bilinearly without antialias.

    Equal to `cv2.resize(cv2.filter2D(image, -1, kernel), (n, n))` to 1e-5 on photos, in no case off by more than
    RANK_TOLERANCE.

    Args:
        image: float32 (S, S, 3) in [0, 1].
        side: n, at most S.
    Returns:
        float32 (n, n, 3).
    """
    size, line = image.shape[0], kernel.line()
    if kernel.size >= MIN_FUSED_KERNEL and _cost(kernel, 1, size, side) <= MAX_COST_ANISO:
        columns, rows = kernel.factors()
        limit = MAX_COST_ISO if line is not None else MAX_COST_ANISO
        if _cost(kernel, len(rows), size, side) <= limit:
            with _one_thread():
                return _blurred_samples(image, columns, rows, side)
    if line is not None:
        image = cv2.sepFilter2D(image, -1, line, line, borderType=cv2.BORDER_REFLECT_101)
    else:
        image = cv2.filter2D(image, -1, kernel.weights(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR))


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread meanwhile: the same bits in a worker and in the main process, and no waiting for threads.

    The products are small; on busy cores, threads that wait for each other make them a hundred times slower.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cost(kernel: BlurKernel, rank: int, size: int, side: int) -> float:
    """Multiplications of `_blurred_samples` per pixel and channel of the picture."""
    band = kernel.size + 1 + ROWS_AT_ONCE * size / side
    return rank * side * (size * band + size * side) / size**2


def _blurred_samples(
    image: FloatImage, columns: NDArray[np.float64], rows: NDArray[np.float64], side: int
) -> FloatImage:
    """sum_r A_r X B_r^T for each channel X: A_r blurs and samples down the columns, B_r along the rows."""
    size, rank = image.shape[0], len(rows)
    pixels = torch.from_numpy(image.reshape(size, size * 3))
    down, first, last = sampling_matrix(columns, size, side)
    across, _, _ = sampling_matrix(rows, size, side)
    down_t = torch.from_numpy(down)
    blurred = torch.empty(side * rank, size * 3)
    for top in range(0, side, ROWS_AT_ONCE):  # A_r is a band: only some rows of the picture matter to each of its own
        end = min(top + ROWS_AT_ONCE, side)
        low, high = int(first[top]), int(last[end - 1])
        weights = down_t[top:end, :, low:high].reshape(-1, high - low)  # (rows*R, band)
        torch.mm(weights, pixels[low:high], out=blurred[top * rank : end * rank])
    blurred = blurred.view(side, rank, size, 3).permute(0, 3, 1, 2).reshape(side * 3, rank * size)  # (n*3, R*S)
    samples = torch.mm(blurred, torch.from_numpy(across.reshape(side, rank * size)).T)  # (n*3, R*S) -> (n*3, n)
    return np.asarray(samples.view(side, 3, side).permute(0, 2, 1).contiguous().numpy())


def sampling_matrix(
    lines: NDArray[np.float64], size: int, side: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Blur with a line, then sample n points between S pixels bilinearly, as one matrix.

    Args:
        lines: (R, K).
    Returns:
        The matrices (n, R, S); for each of the n points the first pixel that it looks at, and the one after the last.
    """
    rank, length = lines.shape
    half = length // 2
    at = (np.arange(side) + 0.5) * (size / side) - 0.5  # pixel centres, as cv2.resize has them
    left = np.clip(np.floor(at), 0, size - 1).astype(np.int64)
    part = np.where(left < size - 1, np.clip(at - left, 0, 1), 0)[:, None, None]  # of the right neighbour
    taps = np.zeros((side, rank, length + 1))
    taps[..., :-1] = (1 - part) * lines
    taps[..., 1:] += part * lines
    padded = np.zeros((side, rank, size + 2 * half + 1), np.float32)
    places = left[:, None, None] + np.arange(length + 1)
    np.put_along_axis(padded, np.broadcast_to(places, taps.shape), taps.astype(np.float32), axis=2)
    matrix = np.ascontiguousarray(padded[..., half : half + size])
    matrix[..., 1 : half + 1] += padded[..., :half][..., ::-1]  # what falls outside comes back mirrored
    matrix[..., size - 1 - half : size - 1] += padded[..., half + size : 2 * half + size][..., ::-1]
    # a mirrored tap never looks further in than the tap on the other side of the kernel
    return matrix, np.maximum(left - half, 0), np.minimum(left + half + 2, size)
