"""Images: the pixels that the model sees, number by number."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qcompiler.data.open import ImageOptions, open_data
from qcompiler.data.spec import InputSpec, Role
from qcompiler.errors import InputError, UsageError

F32 = np.dtype("float32")
PLAIN = ImageOptions()
PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images; the second is the first, brighter."""
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS + np.uint8(100)).save(tmp_path / "b.PNG")
    (tmp_path / "labels.txt").write_text("ignored")
    return tmp_path


def _read(source: Path, spec: InputSpec, options: ImageOptions = PLAIN) -> list[np.ndarray]:
    return [feed[spec.name] for feed in open_data(source, [spec], images=options)]


def _refused(source: Path, specs: list[InputSpec], options: ImageOptions = PLAIN) -> InputError:
    with pytest.raises(InputError) as caught:
        list(open_data(source, specs, images=options))
    return caught.value


def test_scale_mean_and_std(folder: Path) -> None:
    spec = InputSpec("x", F32, ("n", 3, 4, 5))
    mean, std = (0.5, 0.25, 0.125), (0.5, 2.0, 4.0)
    first, second = _read(folder, spec, ImageOptions(mean=mean, std=std))
    wanted = ((PIXELS / 255 - mean) / std).transpose(2, 0, 1)[None]
    # The reader computes in float32: three roundings of values below 2.
    np.testing.assert_allclose(first, wanted, rtol=0, atol=4 * 2.0**-23)
    assert first.dtype == F32
    np.testing.assert_allclose(
        second - first, 100 / 255 / np.reshape(std, (1, 3, 1, 1)) + 0 * first, atol=1e-6
    )


def test_nhwc_bgr_and_raw_range(folder: Path) -> None:
    spec = InputSpec("x", F32, (1, 4, 5, 3))
    first, _ = _read(folder, spec, ImageOptions(layout="nhwc", bgr=True, scale=1.0))
    np.testing.assert_array_equal(first, PIXELS[None, ..., ::-1].astype(np.float32), strict=True)


def test_uint8_input_gets_the_pixels(folder: Path) -> None:
    spec = InputSpec("x", np.dtype("uint8"), (1, 3, 4, 5), Role.INTEGER)
    first, _ = _read(folder, spec, ImageOptions(mean=(9.0,)))
    np.testing.assert_array_equal(first, PIXELS.transpose(2, 0, 1)[None], strict=True)


def test_one_channel_is_greyscale(folder: Path) -> None:
    first, _ = _read(folder, InputSpec("x", F32, ("n", 1, 4, 5)), ImageOptions(scale=1.0))
    # ITU-R 601 luma, truncated as Pillow does.
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(first[0, 0], luma, atol=1)


def test_resized_to_the_model_and_kept_if_free(folder: Path) -> None:
    assert _read(folder, InputSpec("x", F32, ("n", 3, 8, 10)))[0].shape == (1, 3, 8, 10)
    assert _read(folder, InputSpec("x", F32, ("n", 3, "h", "w")))[0].shape == (1, 3, 4, 5)


def test_bilinear(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 100]], np.uint8)).save(tmp_path / "a.png")
    [array] = _read(tmp_path, InputSpec("x", F32, ("n", 1, 1, 4)), ImageOptions(scale=1.0))
    # Sample points at 1/4, 3/4, 5/4, 7/4 of a pixel; centres at 1/2 and 3/2.
    assert array[0, 0, 0].tolist() == [0, 25, 75, 100]


def test_same_feeds_as_the_npz(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    spec = InputSpec("x", F32, (2, 3, 4, 5))
    [images] = _read(folder, spec)
    path = tmp_path_factory.mktemp("npz") / "d.npz"
    np.savez(path, allow_pickle=False, x=images)
    [feed] = open_data(path, [spec])
    np.testing.assert_array_equal(feed["x"], images, strict=True)
    np.testing.assert_array_equal(
        images, np.concatenate(_read(folder, InputSpec("x", F32, ("n", 3, 4, 5))))
    )


def test_one_image_and_sub_folders(folder: Path) -> None:
    spec = InputSpec("x", F32, ("n", 3, 4, 5))
    assert len(_read(folder / "a.png", spec)) == 1
    for name in ("cats", "dogs"):
        (folder / "all" / name).mkdir(parents=True)
        Image.fromarray(PIXELS).save(folder / "all" / name / "1.png")
    assert len(_read(folder / "all", spec)) == 2


def test_broken_image_names_the_file(folder: Path) -> None:
    (folder / "c.jpg").write_bytes(b"\xff\xd8\xff broken")
    error = _refused(folder, [InputSpec("x", F32, ("n", 3, 4, 5))])
    assert error.message.startswith("cannot read the image: ")
    assert error.where == str(folder / "c.jpg")
    assert "repair" in error.hint


def test_truncated_image_names_the_file(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "c.png")
    content = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(content[: len(content) // 2])
    error = _refused(folder, [InputSpec("x", F32, ("n", 3, 4, 5))])
    assert error.where == str(folder / "c.png")


def test_more_than_8_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 1000, np.uint16)).save(tmp_path / "a.png")
    error = _refused(tmp_path, [InputSpec("x", F32, ("n", 1, 4, 5))])
    assert error.message.startswith("expected 8 bits a channel, found an image of mode I")


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    error = _refused(folder, [InputSpec("x", F32, ("n", 3, 4, 5))])
    assert error.message == "reading images needs Pillow, which is not installed"
    assert error.hint == "pip install pillow"


def test_model_without_an_image_input(folder: Path) -> None:
    error = _refused(folder, [InputSpec("x", F32, ("n", 60))])
    assert (
        "exactly one image-shaped input (4 axes), found 0 among: 'x' float32[n, 60]"
        in error.message
    )
    two = [InputSpec(name, F32, ("n", 3, 4, 5)) for name in "ab"]
    assert "found 2 among" in _refused(folder, two).message


def test_model_with_another_input(folder: Path) -> None:
    specs = [InputSpec("x", F32, ("n", 3, 4, 5)), InputSpec("size", F32, ("n", 2))]
    assert "lacks the model's input 'size' float32[n, 2]" in _refused(folder, specs).message


def test_layout_does_not_fit(folder: Path) -> None:
    error = _refused(folder, [InputSpec("x", F32, ("n", 4, 5, 3))])
    assert "has 4 in layout nchw" in error.message
    assert error.hint == "set the layout to nhwc"
    other = _refused(folder, [InputSpec("x", F32, ("n", 4, 5, 4))])
    assert other.hint == "give an .npz instead"


def test_type_does_not_fit(folder: Path) -> None:
    error = _refused(folder, [InputSpec("x", np.dtype("int32"), ("n", 3, 4, 5))])
    assert "expected a float or uint8 input for images, found int32[n, 3, 4, 5]" in error.message


def test_three_means_for_one_channel(folder: Path) -> None:
    options = ImageOptions(mean=(1.0, 2.0, 3.0))
    error = _refused(folder, [InputSpec("x", F32, ("n", 1, 4, 5))], options)
    assert error.hint == "give one number"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "hwc"}, "expected 'nchw' or 'nhwc', found 'hwc'"),
        ({"mean": (1.0, 2.0)}, "image mean: expected 1 or 3 numbers, found 2"),
        ({"std": (0.0,)}, "image std: expected numbers other than 0"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageOptions(**options)
