"""Pictures: the pixel budget, and where a picture may come from."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from limbeck.data.images import fit_pixels, open_image, probe_image
from limbeck.errors import DataError


def png(size: tuple[int, int], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 0).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(640, 480), (1, 1), (3, 1000), (1000, 1), (17, 31), (2000, 3)])
@pytest.mark.parametrize("bounds", [(None, 5000), (5000, None), (4000, 9000), (100, 100), (1, 3)])
def test_area_ends_within_the_bounds(size: tuple[int, int], bounds: tuple) -> None:
    low, high = bounds
    fitted = fit_pixels(Image.new("RGB", size), low, high)
    area = fitted.width * fitted.height
    assert min(fitted.size) >= 1
    if high is not None:
        assert area <= high
    elif low is not None:
        assert area >= low


def test_aspect_ratio_is_kept_up_to_rounding() -> None:
    assert fit_pixels(Image.new("RGB", (800, 400)), None, 20_000).size == (200, 100)
    assert fit_pixels(Image.new("RGB", (20, 10)), 20_000, None).size == (200, 100)


def test_sides_round_down_when_shrinking_and_up_when_enlarging() -> None:
    assert fit_pixels(Image.new("RGB", (100, 100)), None, 99 * 99 - 1).size == (98, 98)
    assert fit_pixels(Image.new("RGB", (100, 100)), 101 * 101 + 1, None).size == (102, 102)


def test_a_picture_within_the_bounds_is_the_same_object() -> None:
    image = Image.new("RGB", (30, 20))
    assert fit_pixels(image, 600, 600) is image
    assert fit_pixels(image, None, None) is image


def test_probe_tells_suffix_by_content_and_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG", exif=exif)
    probe = probe_image(buffer.getvalue(), where="a")
    assert (probe.suffix, probe.width, probe.height) == (".jpg", 20, 30)


def test_errors_name_the_sample() -> None:
    with pytest.raises(DataError, match=r"^sample 7: image file is empty$"):
        open_image(b"", where="sample 7")


def test_opened_picture_outlives_its_file(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png((5, 4)))
    image = open_image(path, where="a")
    path.unlink()
    assert image.resize((2, 2)).size == (2, 2)
