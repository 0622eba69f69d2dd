"""Images and masks as a caller has them, made into tensors the networks take.

One rule for all: values are 8-bit (uint8), or floating point in [0, 1]; channels are RGB, last in arrays as OpenCV,
PIL and scikit-image have them, first in tensors as torch has them. Keypoints are pixels of the image as given: of a PIL
image as ``np.asarray`` gives it, not turned by its EXIF tag; only a path is read upright, as viewers show it.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.io.intensity import FULL_SCALE_16, to_8_bit


def as_image_batch(image: Any, device: torch.device | str = "cpu") -> Tensor:
    """Return ``B x 3 x H x W`` float32 RGB in [0, 1] on ``device``.

    Args:
        image: an array ``H x W x 3``, ``H x W`` (grey) or ``B x H x W x 3``, or a tensor ``B x 3 x H x W`` or
            ``3 x H x W`` (``1`` channel is repeated), uint8 or floating point with values in [0, 1]; a PIL image of
            any mode (alpha is left out, 16 bits and floats become 8 as those of files do); or the path of a file.

    Raises:
        ImageError: any other type or shape, an empty image, an unreadable file, or values that are not finite or not
            in [0, 1].
    """
    if isinstance(image, str | os.PathLike):
        image = read_image(Path(image))
    if is_pil(image):
        image = _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, device)
    if isinstance(image, Tensor):
        return _from_tensor(image, device)
    if isinstance(image, list | tuple):
        raise ImageError(
            "an image must be one array, tensor or path, got several; stack images of one size into a batch"
        )
    hint = "; PIL.Image.open makes an image of an open file" if hasattr(image, "read") else ""
    raise ImageError(
        f"an image must be a numpy array, a torch tensor, a PIL image or a path, got {type(image).__name__}{hint}"
    )


def as_picture(image: Any) -> np.ndarray:
    """Return ``H x W x 3`` uint8 RGB of one image, in any of the forms that :func:`as_image_batch` takes.

    Raises:
        ImageError: as there, or a batch of several.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3:
        if 0 in image.shape:
            raise ImageError(f"the image is empty: {image.shape}")
        return image
    batch = as_image_batch(image)
    if len(batch) != 1:
        raise ImageError(f"a picture is made of one image, got a batch of {len(batch)}")
    return (batch[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def is_pil(image: Any) -> bool:
    """Return whether ``image`` is a PIL image; PIL need not be installed."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(image).__mro__)


def _from_pil(image: Any) -> np.ndarray:
    try:
        # PIL reads a file when its pixels are asked for; premultiplied alpha has no way to RGB but this.
        image.load()
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"the PIL image cannot be read: {error}") from error
    if image.mode.startswith("I;16"):
        return to_8_bit(np.asarray(image).astype(np.uint16), FULL_SCALE_16, None, "16-bit images")
    if image.mode == "F":
        return to_8_bit(np.asarray(image), 1.0, None, "images of floats")
    if image.mode == "I":
        raise ImageError("a PIL image of mode I (32 bits) has no scale; make a float array in [0, 1] of it")
    return np.asarray(image.convert("RGB"))


def as_mask_batch(mask: Any, images: Tensor) -> Tensor:
    """Return ``B x H x W`` bool on the device of ``images``: true where keypoints are wanted.

    Raises:
        ImageError: the mask's size is not that of the images.
    """
    if isinstance(mask, str | bytes | os.PathLike):
        raise ImageError(f"a mask must be an array or a tensor, got {mask!r}; io.masks.read_mask reads one of a file")
    # Compared here: torch does not take every type of array.
    wanted = mask != 0 if isinstance(mask, Tensor) else torch.from_numpy(np.asarray(np.asarray(mask) != 0, order="C"))
    given = tuple(wanted.shape)
    if wanted.ndim == 2:
        wanted = wanted[None].expand(images.shape[0], -1, -1)
    if wanted.shape != (images.shape[0], *images.shape[-2:]):
        raise ImageError(f"mask is {given}, expected height x width {tuple(images.shape[-2:])} of the image it masks")
    return wanted.to(images.device)


def _from_array(image: np.ndarray, device: torch.device | str) -> Tensor:
    floats = np.issubdtype(image.dtype, np.floating)
    if image.dtype != np.uint8 and not floats:
        hint = "; image * 1.0" if image.dtype == bool else ""
        if np.issubdtype(image.dtype, np.integer):
            hint = "; divide by the value that is to be white"
        raise ImageError(f"a numpy image must be uint8, or floating point in [0, 1], got {image.dtype}{hint}")
    shape = image.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3):
        hint = "; leave out alpha: image[..., :3]" if shape[-1:] == (4,) else ""
        if len(shape) == 3 and shape[0] in (1, 3):
            hint = "; channels come last in arrays: image.transpose(1, 2, 0), or give torch.from_numpy(image)"
        raise ImageError(f"a numpy image must be H x W, H x W x 3 or B x H x W x 3, got {shape}{hint}")
    if 0 in image.shape:
        raise ImageError(f"the image is empty: {shape}")
    # torch takes neither foreign byte orders nor long doubles.
    if image.dtype != np.uint8 and image.dtype not in (np.float16, np.float32, np.float64):
        image = image.astype(np.float32)
    # torch warns of read-only arrays, which buffers of messages and files are.
    array = np.ascontiguousarray(image) if image.flags.writeable else np.array(image, order="C")
    # uint8 travels to the device and is converted there: a quarter of the bytes.
    return _finished(_sent(torch.from_numpy(array), device).permute(0, 3, 1, 2), torch.contiguous_format)


def _from_tensor(image: Tensor, device: torch.device | str) -> Tensor:
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise ImageError(f"an image tensor must be uint8 or floating point in [0, 1], got {image.dtype}")
    if image.layout is not torch.strided or image.is_nested or image.is_meta:
        layout = "nested" if image.is_nested else f"of layout {image.layout}"
        what = "on the meta device, without values" if image.is_meta else layout
        raise ImageError(f"an image tensor must be dense, with values; this one is {what}")
    shape = tuple(image.shape)
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        hint = ""
        if image.ndim == 4 and image.shape[-1] in (1, 3, 4):
            order = "2, 0, 1" if len(shape) == 3 else "0, 3, 1, 2"
            hint = f"; channels come first in tensors: image.permute({order})"
        elif image.ndim == 4 and image.shape[1] == 4:
            hint = "; leave out alpha: image[..., :3, :, :]"
        elif image.ndim == 2:
            hint = "; a grey image is image[None]"
        raise ImageError(f"an image tensor must be B x 3 x H x W (or 3 x H x W), got {shape}{hint}")
    if 0 in image.shape:
        raise ImageError(f"the image is empty: {tuple(image.shape)}")
    return _finished(_sent(image, device), torch.preserve_format)


def _sent(image: Tensor, device: torch.device | str) -> Tensor:
    """Put an image on its device; to a GPU through pinned memory, without waiting."""
    if torch.device(device).type != "cuda" or image.device.type != "cpu":
        return image.to(device)
    return image.pin_memory().to(device, non_blocking=True)


def _finished(batch: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return three float32 channels in [0, 1] of one or three of 8 bits or floating point."""
    values = batch.to(torch.float32, memory_format=memory_format)
    if batch.dtype == torch.uint8:
        values.div_(255.0)
    else:
        low, high = (float(v) for v in torch.aminmax(values.detach()))
        # A slack of one 8-bit step: resampling with cubic kernels overshoots a little. NaN fails both comparisons.
        if not (low >= -1 / 255 and high <= 1 + 1 / 255):
            if not math.isfinite(low + high):
                hint = "replace NaN and infinities by values in it (numpy.nan_to_num, torch.nan_to_num)"
            else:
                hint = "undo its normalisation" if low < 0 else "divide 8-bit values by 255"
            raise ImageError(f"image values must lie in [0, 1], got {low:.4g} … {high:.4g}; {hint}")
    return values.expand(-1, 3, -1, -1) if values.shape[1] == 1 else values
