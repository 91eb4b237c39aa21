"""Where pixels go: geometry computed by hand, plain OpenCV as the reference, and bytes that depend on nothing else."""

from __future__ import annotations

from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.preprocess import Filter, Frame, InputSpec, Placement, Preprocessor, Resize, place, preprocess

RESIZES: tuple[Resize, ...] = get_args(Resize)
FILTERS: tuple[Filter, ...] = get_args(Filter)


def noise(width: int, height: int, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("frame", "spec", "source", "target"),
    [
        # letterbox: the whole frame, centred
        ((200, 100), InputSpec(100, 100, "letterbox"), (0, 0, 200, 100), (0, 25, 100, 50)),
        ((100, 200), InputSpec(100, 100, "letterbox"), (0, 0, 100, 200), (25, 0, 50, 100)),
        ((640, 480), InputSpec(224, 224, "letterbox"), (0, 0, 640, 480), (0, 28, 224, 168)),
        ((30, 20), InputSpec(64, 64, "letterbox"), (0, 0, 30, 20), (0, 10, 64, 43)),  # 42.67 rows, 21 to share
        ((20, 30), InputSpec(64, 64, "letterbox"), (0, 0, 20, 30), (10, 0, 43, 64)),
        ((100, 100), InputSpec(64, 32, "letterbox"), (0, 0, 100, 100), (16, 0, 32, 32)),
        ((1000, 1), InputSpec(100, 100, "letterbox"), (0, 0, 1000, 1), (0, 49, 100, 1)),  # never less than a pixel
        ((50, 50), InputSpec(50, 50, "letterbox"), (0, 0, 50, 50), (0, 0, 50, 50)),
        # center crop: the whole input, the frame loses its edges
        ((200, 100), InputSpec(100, 100, "center_crop"), (50, 0, 100, 100), (0, 0, 100, 100)),
        ((640, 480), InputSpec(224, 224, "center_crop"), (80, 0, 480, 480), (0, 0, 224, 224)),
        ((101, 50), InputSpec(10, 10, "center_crop"), (25, 0, 50, 50), (0, 0, 10, 10)),
        ((100, 100), InputSpec(64, 32, "center_crop"), (0, 25, 100, 50), (0, 0, 64, 32)),
        ((30, 20), InputSpec(64, 64, "center_crop"), (5, 0, 20, 20), (0, 0, 64, 64)),
        ((1000, 1), InputSpec(100, 100, "center_crop"), (499, 0, 1, 1), (0, 0, 100, 100)),
        # stretch: everything on everything
        ((200, 100), InputSpec(64, 32, "stretch"), (0, 0, 200, 100), (0, 0, 64, 32)),
        ((1, 300), InputSpec(64, 32, "stretch"), (0, 0, 1, 300), (0, 0, 64, 32)),
    ],
)
def test_placement_is_what_a_hand_computes(
    frame: tuple[int, int], spec: InputSpec, source: tuple[int, int, int, int], target: tuple[int, int, int, int]
) -> None:
    assert place(*frame, spec) == Placement(source, target)


@pytest.mark.parametrize("filter", FILTERS)
def test_a_letterbox_is_padded_with_its_grey_level_and_nothing_else(filter: Filter) -> None:
    frame = np.full((100, 200, 3), (10, 20, 30), np.uint8)
    image = preprocess(frame, InputSpec(100, 100, "letterbox", filter, pad=77))
    assert (image[:25] == 77).all()
    assert (image[75:] == 77).all()
    assert (image[25:75] == (30, 20, 10)).all()


def test_the_usual_padding_is_grey_114() -> None:
    assert preprocess(np.zeros((10, 20, 3), np.uint8), InputSpec(20, 20))[0, 0].tolist() == [114, 114, 114]


def test_a_center_crop_shows_nothing_of_the_edges() -> None:
    frame = np.full((100, 200, 3), 255, np.uint8)
    frame[:, 50:150] = 7
    assert (preprocess(frame, InputSpec(50, 50, "center_crop")) == 7).all()


def test_a_stretch_keeps_every_corner() -> None:
    corners = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    frame = corners.repeat(40, axis=0).repeat(100, axis=1)
    image = preprocess(frame, InputSpec(20, 20, "stretch"))
    assert image[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == corners[:, :, ::-1].reshape(4, 3).tolist()


@pytest.mark.parametrize("resize", RESIZES)
def test_bgr_frames_become_rgb(resize: Resize) -> None:
    frame = np.full((40, 40, 3), (1, 2, 3), np.uint8)
    assert np.unique(preprocess(frame, InputSpec(16, 16, resize)).reshape(-1, 3), axis=0).tolist() == [[3, 2, 1]]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("frame", [(640, 480), (481, 641), (97, 31), (16, 16), (5, 300)])
def test_to_source_takes_the_corners_of_the_target_to_those_of_the_source(
    frame: tuple[int, int], resize: Resize
) -> None:
    p = place(*frame, InputSpec(64, 48, resize))
    sx, sy, sw, sh = p.source
    tx, ty, tw, th = p.target
    assert p.to_source(tx, ty) == (sx, sy)
    assert p.to_source(tx + tw, ty + th) == (sx + sw, sy + sh)
    assert p.to_source(tx + tw / 2, ty + th / 2) == pytest.approx((sx + sw / 2, sy + sh / 2))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(640, 480), (333, 517), (50, 70)])
def test_to_source_finds_a_spot_where_it_was_in_the_frame(
    size: tuple[int, int], resize: Resize, filter: Filter
) -> None:
    """The pixels themselves say where the spot went, so this fails for a shift that `place` and `to_source` share."""
    width, height = size
    frame = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = int(width * 0.55), int(height * 0.4), int(width * 0.7), int(height * 0.55)
    frame[y0:y1, x0:x1] = 255
    spec = InputSpec(64, 48, resize, filter, pad=0)
    weight = preprocess(frame, spec)[:, :, 0].astype(float)
    x = float((weight.sum(0) * (np.arange(spec.width) + 0.5)).sum() / weight.sum())
    y = float((weight.sum(1) * (np.arange(spec.height) + 0.5)).sum() / weight.sum())
    p = place(width, height, spec)
    # linear sampling without a pyramid sees every tenth pixel, and may be wrong by as much
    tolerance = 0.55 * max(p.source[2] / p.target[2], p.source[3] / p.target[3], 1)
    assert p.to_source(x, y) == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2), abs=tolerance)


@pytest.mark.parametrize(
    ("frame", "halvings"), [((640, 480), 2), ((641, 479), 2), ((1280, 720), 3), ((127, 127), 0), ((128, 2000), 1)]
)
def test_a_pyramid_is_halvings_by_area_and_then_a_linear_step(frame: tuple[int, int], halvings: int) -> None:
    picture = expected = noise(*frame)
    for _ in range(halvings):
        height, width = expected.shape[:2]
        expected = cv2.resize(expected, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    height, width = expected.shape[:2]
    assert width < 128 or height < 128, "the parameters of this test: one halving more would still be too big"
    expected = cv2.resize(expected, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(preprocess(picture, InputSpec(64, 64, "stretch", "pyramid")), expected[:, :, ::-1])


def test_a_halving_is_the_mean_of_two_by_two_pixels() -> None:
    frame = noise(32, 32)
    means = frame.reshape(16, 2, 16, 2, 3).mean((1, 3))
    image = preprocess(frame, InputSpec(16, 16, "stretch", "pyramid"))[:, :, ::-1]
    assert np.abs(image - means).max() <= 0.5


@pytest.mark.parametrize(("filter", "flag"), [("linear", cv2.INTER_LINEAR), ("area", cv2.INTER_AREA)])
def test_the_other_filters_are_opencvs_own(filter: Filter, flag: int) -> None:
    frame = noise(300, 200)
    expected = cv2.resize(frame, (64, 48), interpolation=flag)[:, :, ::-1]
    assert np.array_equal(preprocess(frame, InputSpec(64, 48, "stretch", filter)), expected)


def test_a_pyramid_does_not_alias_where_linear_does() -> None:
    board = np.indices((256, 256)).sum(0) % 2 * 255
    frame = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    frame[:, ::8] = 255 - frame[:, ::8]
    assert np.ptp(preprocess(frame, InputSpec(32, 32, filter="pyramid"))) <= 1
    stripes = np.repeat((np.arange(256) % 8 < 4)[None, :, None] * 255, 256, axis=0).repeat(3, axis=2).astype(np.uint8)
    assert preprocess(stripes, InputSpec(32, 32, filter="pyramid")).mean() == pytest.approx(127.5, abs=1)
    assert preprocess(np.roll(stripes, -1, axis=1), InputSpec(32, 32, filter="linear")).mean() == 0


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("resize", RESIZES)
def test_a_reused_buffer_has_the_same_bytes_when_sizes_alternate(resize: Resize, filter: Filter) -> None:
    spec = InputSpec(48, 32, resize, filter)
    often = Preprocessor(spec)
    out = np.full((32, 48, 3), 255, np.uint8)
    for i, size in enumerate([(640, 480), (20, 300), (640, 480), (48, 32), (3, 3), (20, 300), (480, 640)]):
        frame = noise(*size, seed=i)
        before = frame.copy()
        assert often(frame, out) is out
        assert np.array_equal(out, preprocess(frame, spec)), size
        assert np.array_equal(frame, before), "the frame was written to"


def test_without_a_buffer_each_answer_is_an_array_of_its_own() -> None:
    preprocessor = Preprocessor(InputSpec(8, 8))
    first = preprocessor(np.zeros((8, 8, 3), np.uint8))
    second = preprocessor(np.full((8, 8, 3), 255, np.uint8))
    assert first.max() == 0
    assert second.min() == 255


@pytest.mark.parametrize("resize", RESIZES)
def test_a_view_of_a_frame_gives_what_its_copy_gives(resize: Resize) -> None:
    view = noise(300, 200)[20:150, 250:30:-1]
    spec = InputSpec(32, 32, resize)
    assert np.array_equal(preprocess(view, spec), preprocess(view.copy(), spec))


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.int8),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
    ],
)
def test_anything_but_a_bgr_frame_of_bytes_is_refused(frame: Any) -> None:
    with pytest.raises(ValueError, match="a frame must be uint8"):
        preprocess(frame, InputSpec(8, 8))


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"height": 0}, {"width": 8193}, {"height": -1}, {"pad": -1}, {"pad": 256}]
)
def test_a_spec_out_of_range_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"pixels|grey level"):
        InputSpec(**{"width": 8, "height": 8, **wrong})


sides = st.integers(1, 300)
specs = st.builds(InputSpec, sides, sides, st.sampled_from(RESIZES), st.sampled_from(FILTERS), st.integers(0, 255))


@settings(deadline=None, max_examples=300)
@given(sides, sides, specs)
def test_any_frame_fits_any_spec(width: int, height: int, spec: InputSpec) -> None:
    p = place(width, height, spec)
    for (x, y, w, h), (whole_w, whole_h) in ((p.source, (width, height)), (p.target, (spec.width, spec.height))):
        assert 0 <= x < x + w <= whole_w
        assert 0 <= y < y + h <= whole_h
        # in the middle: neither side has more than a pixel more than the other
        assert abs(whole_w - w - 2 * x) <= 1
        assert abs(whole_h - h - 2 * y) <= 1
    if spec.resize != "letterbox":
        assert p.target == (0, 0, spec.width, spec.height)
    if spec.resize != "center_crop":
        assert p.source == (0, 0, width, height)
    if spec.resize == "letterbox":
        assert p.target[2] == spec.width or p.target[3] == spec.height
    if spec.resize == "center_crop":
        assert p.source[2] == width or p.source[3] == height

    image = preprocess(np.full((height, width, 3), 200, np.uint8), spec)
    assert image.shape == (spec.height, spec.width, 3)
    assert image.dtype == np.uint8
    x, y, w, h = p.target
    assert (image[y : y + h, x : x + w] == 200).all()
    outside = np.ones(image.shape[:2], bool)
    outside[y : y + h, x : x + w] = False
    assert (image[outside] == spec.pad).all()


def test_what_a_byte_is_to_the_model_is_its_mean_and_deviation() -> None:
    spec = InputSpec(4, 4, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    frames = noise(4, 4)[None]
    expected = (frames.astype(np.float64) - np.asarray(spec.mean)) / np.asarray(spec.std)
    assert np.allclose(spec.normalize(frames), expected, atol=1e-5)
    assert spec.normalize(frames).dtype == np.float32
    assert np.array_equal(InputSpec(4, 4).normalize(frames), frames.astype(np.float32))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.0,), (1.0,) * 3), ((0.0,) * 3, (1.0, 1.0)), ((0.0,) * 3, (1.0, 0.0, 1.0)), ((float("nan"),) * 3, (1.0,) * 3)],
)
def test_a_normalisation_that_is_none_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="mean and std"):
        InputSpec(4, 4, mean=mean, std=std)
