"""Frozen images and motion, on images with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from edge.capture.motion import REFRESH_S, FreezeDetector, MotionDetector
from sightline.preprocess import Frame

S = 1_000_000_000


def noisy(seed: int, spread: float = 3.0) -> Frame:
    rng = np.random.default_rng(seed)
    return np.clip(120 + rng.normal(0, spread, (40, 50, 3)), 0, 255).astype(np.uint8)


def with_square(image: Frame, side: int, x: int = 0) -> Frame:
    image = image.copy()
    image[:side, x : x + side] = 250
    return image


def test_the_same_image_has_a_duration() -> None:
    frozen, image = FreezeDetector(), noisy(0)
    assert [frozen.seconds(image.copy(), t * S) for t in range(4)] == [0, 1, 2, 3]


def test_noise_of_one_level_in_one_pixel_is_life() -> None:
    frozen, image = FreezeDetector(), noisy(0)
    frozen.seconds(image, 0)
    image = image.copy()
    image[7, 9, 1] ^= 1
    assert frozen.seconds(image, 5 * S) == 0
    assert frozen.seconds(image, 7 * S) == 2


def test_the_buffer_may_be_used_again() -> None:
    frozen, buffer = FreezeDetector(), noisy(0)
    frozen.seconds(buffer, 0)
    buffer[:] = noisy(1)
    assert frozen.seconds(buffer, 3 * S) == 0


def test_another_size_is_another_image() -> None:
    frozen = FreezeDetector()
    frozen.seconds(noisy(0), 0)
    assert frozen.seconds(np.zeros((8, 8, 3), np.uint8), 9 * S) == 0


def test_noise_is_no_motion_and_an_object_is() -> None:
    motion = MotionDetector(1.0)
    assert motion.moved(noisy(0), 0), "the first image gets an inference"
    assert not any(motion.moved(noisy(i), i * S // 30) for i in range(1, 20))
    assert motion.moved(with_square(noisy(30), 8), S)  # 64 of 2,000 pixels
    assert not motion.moved(with_square(noisy(31), 8), S + 1), "it has had one"
    assert motion.moved(noisy(32), S + 2), "it has gone"


@pytest.mark.parametrize(("side", "moved"), [(4, False), (5, True)])
def test_the_percentage_is_of_the_pixels(side: int, moved: bool) -> None:
    motion = MotionDetector(1.0)  # of 2,000 pixels: 20
    motion.moved(noisy(0), 0)
    assert motion.moved(with_square(noisy(1), side), 1) == moved


def test_what_changes_slowly_adds_up() -> None:
    motion = MotionDetector(1.0)
    motion.moved(noisy(0), 0)
    moved = [motion.moved(with_square(noisy(i), i // 4), i) for i in range(1, 24)]
    assert any(moved), "it is compared with the last frame with an inference, not with the one before"


def test_a_still_image_gets_an_inference_now_and_then() -> None:
    motion, image = MotionDetector(1.0), noisy(0)
    motion.moved(image, 0)
    assert not motion.moved(image, int((REFRESH_S - 0.1) * S))
    assert motion.moved(image, int(REFRESH_S * S))
