"""Folders of images: decode, resize, scale, normalize, lay out.

A pixel value v in 0..255 of channel c becomes ``(v * scale - mean[c]) / std[c]``, as torchvision's
``ToTensor`` and ``Normalize`` do with the default scale of 1/255. A ``uint8`` input gets v itself.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcompiler.data.chunk import Chunk, array_column
from qcompiler.data.spec import Array, Axis, InputSpec, Role, list_inputs
from qcompiler.errors import InputError, UsageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
"""File names that count as images, in lower case."""


@dataclass(frozen=True)
class ImageOptions:
    """How a picture becomes a model's input.

    Attributes:
        mean: Subtracted from the scaled value: one number, or one a channel in the order that the
            model sees.
        std: Divides afterwards: one number, or one a channel.
        layout: ``nchw`` or ``nhwc``.
        scale: Multiplies the pixel value 0..255 first; 1 for models that want 0..255.
        bgr: The model sees blue first, as OpenCV loads images.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"
    scale: float = 1 / 255
    bgr: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: The layout is unknown, a std is 0, or mean or std have neither 1 nor 3
                numbers.
        """
        if self.layout not in ("nchw", "nhwc"):
            raise UsageError(f"image layout: expected 'nchw' or 'nhwc', found {self.layout!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3):
                raise UsageError(f"image {name}: expected 1 or 3 numbers, found {len(values)}")
        if 0 in self.std:
            raise UsageError("image std: expected numbers other than 0, found 0")


@dataclass(frozen=True)
class ImageReader:
    """Images as samples, one chunk an image.

    Attributes:
        source: What the user gave.
        files: The images in order.
        spec: The input they feed, of rank 4.
        options: How a picture becomes an input.
    """

    source: str
    files: Sequence[Path]
    spec: InputSpec
    options: ImageOptions

    @property
    def chunk_count(self) -> int:
        """Number of images."""
        return len(self.files)

    def chunks(self) -> Generator[Chunk, None, None]:
        """Decode one image after the other.

        Yields:
            One chunk an image: ``[1, C, H, W]`` or ``[1, H, W, C]`` of the input's dtype.

        Raises:
            InputError: Pillow is missing, or a file is no image or damaged.
        """
        for number, path in enumerate(self.files):
            pixels = _load(path, *self._size())
            array = self._normalize(pixels[..., ::-1] if self.options.bgr else pixels)
            if self.options.layout == "nchw":
                array = array.transpose(2, 0, 1)
            yield Chunk(str(path), {self.spec.name: array_column(array[None])}, start=number)

    def _size(self) -> tuple[int, int | None, int | None]:
        """Channels, height and width; None keeps the image's own."""
        channels, height, width = _axes(self.spec, self.options.layout)
        return (
            channels if isinstance(channels, int) else 3,
            height if isinstance(height, int) else None,
            width if isinstance(width, int) else None,
        )

    def _normalize(self, pixels: NDArray[np.uint8]) -> Array:
        """``[H, W, C]`` in 0..255 -> the same shape in the input's dtype."""
        if self.spec.dtype == np.uint8:
            return pixels
        mean, std = (
            np.asarray(values, np.float32) for values in (self.options.mean, self.options.std)
        )
        scaled = (pixels.astype(np.float32) * np.float32(self.options.scale) - mean) / std
        return scaled.astype(self.spec.dtype, copy=False)


def image_reader(
    source: str, files: Sequence[Path], specs: Sequence[InputSpec], options: ImageOptions
) -> ImageReader:
    """Find the model's image input and bind the files to it.

    Args:
        source: What the user gave.
        files: The images, sorted.
        specs: The model's inputs.
        options: How a picture becomes an input.

    Returns:
        The reader.

    Raises:
        InputError: The model has not exactly one image-shaped input, or one whose type or channels
            no image fits.
    """
    shaped = [spec for spec in specs if spec.rank == 4 and spec.role is not Role.CACHE]
    if len(shaped) != 1:
        raise InputError(
            "images need a model with exactly one image-shaped input (4 axes), found "
            f"{len(shaped)} "
            f"among: {list_inputs(specs)}",
            where=source,
            hint="give an .npz with one array for each input",
        )
    spec = shaped[0]
    if spec.dtype != np.uint8 and spec.dtype.kind != "f":
        raise InputError(
            f"input {spec.name!r}: expected a float or uint8 input for images, found {spec}",
            where=source,
        )
    channels = _axes(spec, options.layout)[0]
    if isinstance(channels, int) and channels not in (1, 3):
        other = "nhwc" if options.layout == "nchw" else "nchw"
        raise InputError(
            f"input {spec.name!r}: images have 1 or 3 channels, but {spec} has {channels} in "
            f"layout {options.layout}",
            where=source,
            hint=f"set the layout to {other}"
            if _axes(spec, other)[0] in (1, 3)
            else "give an .npz instead",
        )
    if channels == 1 and max(len(options.mean), len(options.std)) > 1:
        raise InputError(
            f"input {spec.name!r} has one channel, but mean or std have 3 numbers",
            where=source,
            hint="give one number",
        )
    return ImageReader(source, files, spec, options)


def _axes(spec: InputSpec, layout: str) -> tuple[Axis, Axis, Axis]:
    """Channels, height, width of a rank-4 input."""
    shape = spec.shape or ()
    return (shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])


def _load(path: Path, channels: int, height: int | None, width: int | None) -> NDArray[np.uint8]:
    """Decode to ``[H, W, C]``, resized bilinearly."""
    try:
        from PIL import Image  # optional, and costs start-up time
    except ModuleNotFoundError as error:
        raise InputError(
            "reading images needs Pillow, which is not installed",
            where=str(path),
            hint="pip install pillow",
        ) from error
    try:
        with Image.open(path) as image:
            mode = image.mode
            picture: Image.Image = image.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"cannot read the image: {error}",
            where=str(path),
            hint="repair, convert or remove the file",
        ) from error
    if mode[0] in "IF":
        raise InputError(
            f"expected 8 bits a channel, found an image of mode {mode}",
            where=str(path),
            hint="convert it to 8 bits, or give an .npz",
        )
    size = (width or picture.width, height or picture.height)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8)
    return pixels[..., None] if channels == 1 else pixels
