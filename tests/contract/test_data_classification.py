"""A data set is read to the last byte, split by what is in it, and every way in which it can be wrong is told."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.data.classification import ClassificationDataset, read_class_folders
from sightline.data.dataset import balanced, read_frames
from sightline.errors import DataError
from sightline.preprocess import InputSpec, preprocess


def picture(path: Path, seed: int) -> None:
    """A picture of its own for each seed, and always the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8))


def folders(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    for label, count in counts.items():
        for i in range(count):
            seed += 1
            picture(root / label / f"{i:03}.png", seed)
    return root


def contents(data: ClassificationDataset) -> dict[str, set[str]]:
    return {"train": {p.sha256 for p in data.train}, "val": {p.sha256 for p in data.val}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folders(tmp_path / "pets", {"dog": 10, "cat": 20, "owl": 5})


def test_class_folders_are_labels_by_name_and_a_fifth_of_each_is_held_out(root: Path) -> None:
    data = read_class_folders(root)
    assert data.labels == ("cat", "dog", "owl")
    assert Counter(p.label for p in data.train) == {0: 16, 1: 8, 2: 4}
    assert Counter(p.label for p in data.val) == {0: 4, 1: 2, 2: 1}
    assert all(p.path.split("/")[0] == data.labels[p.label] for p in (*data.train, *data.val))
    assert not contents(data)["train"] & contents(data)["val"]
    assert (data.leaked, data.problems) == (0, ())


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_parts_that_are_there_are_taken_as_they_are(tmp_path: Path, val: str) -> None:
    folders(tmp_path / "train", {"a": 3, "b": 2})
    folders(tmp_path / val, {"a": 1, "b": 4}, seed=100)
    data = read_class_folders(tmp_path)
    assert data.labels == ("a", "b")
    assert [p.path for p in data.train] == [f"train/a/00{i}.png" for i in range(3)] + [
        f"train/b/00{i}.png" for i in range(2)
    ]
    assert Counter(p.path.split("/")[0] for p in data.val) == {val: 5}


def test_a_training_part_alone_is_split(tmp_path: Path) -> None:
    folders(tmp_path / "train", {"a": 10, "b": 10})
    data = read_class_folders(tmp_path)
    assert data.labels == ("a", "b")
    assert (len(data.train), len(data.val)) == (16, 4)


def test_the_split_is_a_function_of_the_seed(root: Path) -> None:
    assert read_class_folders(root, seed=1) == read_class_folders(root, seed=1)
    assert contents(read_class_folders(root, seed=1)) != contents(read_class_folders(root, seed=2))


def test_the_split_does_not_depend_on_the_files_names(root: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    for i, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        target = renamed / path.parent.name / f"deeper-{i % 3}" / f"{i:03}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert contents(read_class_folders(renamed, seed=3)) == contents(read_class_folders(root, seed=3))


def test_pictures_of_equal_content_stay_on_the_same_side(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(12):
            picture(tmp_path / label / f"{i:02}.png", seed=ord(label) * 100 + i // 3)  # each one three times
    for seed in range(10):
        data = read_class_folders(tmp_path, seed=seed)
        assert not contents(data)["train"] & contents(data)["val"]
        assert (len(data.train), len(data.val), data.leaked) == (18, 6, 0)


def test_pictures_of_equal_content_stay_on_the_same_side_whatever_their_class(tmp_path: Path) -> None:
    """One picture filed under two classes: held out as one of them, it must not have been learned as the other."""
    folders(tmp_path, {"a": 5, "b": 5})
    picture(tmp_path / "a" / "same.png", seed=999)
    picture(tmp_path / "b" / "same.png", seed=999)
    for seed in range(20):
        data = read_class_folders(tmp_path, seed=seed)
        assert not contents(data)["train"] & contents(data)["val"], f"seed {seed}"


def test_every_class_has_a_picture_on_both_sides(tmp_path: Path) -> None:
    data = read_class_folders(folders(tmp_path, {"a": 2, "b": 3, "c": 50}))
    for part in (data.train, data.val):
        assert {p.label for p in part} == {0, 1, 2}


def test_leaked_pictures_are_counted(tmp_path: Path) -> None:
    folders(tmp_path / "train", {"a": 4, "b": 4})
    folders(tmp_path / "val", {"a": 3, "b": 3}, seed=100)
    assert read_class_folders(tmp_path).leaked == 0
    shutil.copy(tmp_path / "train" / "a" / "000.png", tmp_path / "val" / "a" / "other-name.png")
    shutil.copy(tmp_path / "train" / "b" / "001.png", tmp_path / "val" / "a" / "other-class.png")
    assert read_class_folders(tmp_path).leaked == 2


def test_the_fingerprint_knows_the_content_and_not_the_place(root: Path, tmp_path: Path) -> None:
    before = read_class_folders(root).fingerprint
    assert len(before) == 64
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "animals")
    assert read_class_folders(moved).fingerprint == before


@pytest.mark.parametrize(
    "change", ["a pixel", "one more", "one less", "another class", "the class's name", "the split"]
)
def test_the_fingerprint_changes_with(root: Path, change: str) -> None:
    before = read_class_folders(root).fingerprint
    if change == "a pixel":
        picture(root / "cat" / "003.png", seed=1234)
    elif change == "one more":
        picture(root / "cat" / "zzz.png", seed=1234)
    elif change == "one less":
        (root / "cat" / "003.png").unlink()
    elif change == "another class":
        (root / "cat" / "003.png").rename(root / "dog" / "moved.png")
    elif change == "the class's name":
        (root / "cat").rename(root / "cats")
    assert read_class_folders(root, seed=9 if change == "the split" else 0).fingerprint != before


def test_what_is_no_picture_by_its_ending_is_passed_over(root: Path) -> None:
    before = read_class_folders(root)
    (root / "README.md").write_text("hello")
    (root / "cat" / "notes.txt").write_text("hello")
    picture(root / ".thumbnails" / "x.png", seed=1)
    assert read_class_folders(root) == before


def test_progress_is_told_to_the_end(root: Path) -> None:
    told: list[tuple[int, int]] = []
    read_class_folders(root, progress=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, 35) for i in range(35)]


def loose(root: Path) -> None:
    shutil.rmtree(root)
    for i in range(3):
        picture(root / f"{i}.png", seed=i)


def no_subfolders(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def absent(root: Path) -> None:
    shutil.rmtree(root)


def one_class(root: Path) -> None:
    shutil.rmtree(root / "dog")
    shutil.rmtree(root / "owl")


def empty_class(root: Path) -> None:
    (root / "fox").mkdir()


def one_picture(root: Path) -> None:
    picture(root / "fox" / "only.png", seed=1)


def one_picture_many_times(root: Path) -> None:
    for i in range(5):
        picture(root / "fox" / f"{i}.png", seed=1)


def into_parts(root: Path, **classes: str) -> None:
    shutil.rmtree(root)
    for part, labels in classes.items():
        folders(root / part, dict.fromkeys(labels.split(), 3), seed=len(part) * 50)


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (absent, r"pets: no such folder. Pass a folder with one subfolder of images per class"),
        (no_subfolders, "pets: no subfolders. Each class needs its own subfolder"),
        (loose, "pets: 3 images but no subfolders. Each class needs its own subfolder"),
        (one_class, "pets: only one class, 'cat'. A classifier needs two or more"),
        (empty_class, r"pets: no images in fox \(known suffixes: \.jpg"),
        (one_picture, "pets: no held-out images of fox. Each class needs at least 2 different images"),
        (one_picture_many_times, "no held-out images of fox. Each class needs at least 2 different images"),
        (
            lambda root: into_parts(root, train="cat dog", val="cat dogs"),
            r"dogs: this class is not in .*train \(did you mean dog\?\)",
        ),
        (lambda root: into_parts(root, train="cat dog", val="cat"), "dog: this class is not in .*val"),
        (lambda root: into_parts(root, train="cat", val="cat"), "only one class, 'cat'"),
        (lambda root: (into_parts(root, train="cat dog"), (root / "val").mkdir()), "val: no subfolders"),
    ],
)
def test_a_data_set_of_another_form_is_refused(root: Path, break_it: Callable[[Path], object], why: str) -> None:
    break_it(root)
    with pytest.raises(DataError, match=why):
        read_class_folders(root)


def jpeg(root: Path) -> bytes:
    return cv2.imencode(".jpg", cv2.imread(str(root / "cat" / "000.png")))[1].tobytes()


def png(root: Path) -> bytes:
    return (root / "cat" / "000.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("cut.jpg", lambda root: jpeg(root)[: len(jpeg(root)) // 2], "the JPEG is truncated"),
        ("cut.png", lambda root: png(root)[: len(png(root)) // 2], "the PNG is truncated"),
        ("empty.png", lambda root: b"", "the file is empty"),
        ("text.jpg", lambda root: b"404 Not Found\n", "not an image that can be decoded"),
        ("zeros.bmp", lambda root: bytes(1000), "not an image that can be decoded"),
    ],
)
def test_a_corrupt_picture_is_refused_or_skipped_and_counted(
    root: Path, name: str, content: Callable[[Path], bytes], why: str
) -> None:
    without = read_class_folders(root)
    bad = root / "dog" / name
    bad.write_bytes(content(root))
    with pytest.raises(DataError, match=rf"1 of 36 images are corrupt.*--corrupt skip:\n  {bad}: {why}"):
        read_class_folders(root)
    data = read_class_folders(root, corrupt="skip")
    assert [p.text for p in data.problems] == [f"{bad}: {why}"]
    assert (data.train, data.val) == (without.train, without.val)


def test_many_corrupt_pictures_are_counted_and_the_first_ten_named(root: Path) -> None:
    for i in range(15):
        (root / "dog" / f"bad-{i:02}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"15 of 50 images are corrupt") as e:
        read_class_folders(root)
    assert str(e.value).count("the file is empty") == 10
    assert "bad-09.png" in str(e.value)
    assert len(read_class_folders(root, corrupt="skip").problems) == 15


def test_skipping_a_whole_class_is_refused(root: Path) -> None:
    for i in range(3):
        path = root / "fox" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no training images of fox"):
        read_class_folders(root, corrupt="skip")


@pytest.mark.parametrize("name", [b" cat", b"cat ", b"two\nlines", b"latin-\xe9"])
def test_a_class_whose_name_cannot_be_a_label_is_refused_before_anything_is_learned(root: Path, name: bytes) -> None:
    """The label goes into labels.txt, one a line, in UTF-8: to find that out after hours of training is too late."""
    os.rename(os.fsencode(root / "cat"), os.path.join(os.fsencode(root), name))  # noqa: PTH104, PTH118
    with pytest.raises(DataError, match="name"):
        read_class_folders(root)


def test_balanced_takes_from_every_class_in_turn(root: Path) -> None:
    train = read_class_folders(root).train
    assert Counter(p.label for p in balanced(train, 9, seed=0)) == {0: 3, 1: 3, 2: 3}
    assert Counter(p.label for p in balanced(train, 20, seed=0)) == {0: 8, 1: 8, 2: 4}
    assert sorted(p.path for p in balanced(train, 1000, seed=0)) == sorted(p.path for p in train)
    assert balanced(train, 9, seed=0) == balanced(train, 9, seed=0)
    assert balanced(train, 9, seed=0) != balanced(train, 9, seed=1)


def test_frames_are_the_pictures_as_the_model_takes_them(root: Path) -> None:
    spec = InputSpec(8, 6)
    pictures = read_class_folders(root).val
    frames = read_frames(root, pictures, spec)
    assert (frames.shape, frames.dtype) == ((7, 6, 8, 3), np.uint8)
    for p, frame in zip(pictures, frames, strict=True):
        assert np.array_equal(frame, preprocess(cv2.imread(str(root / p.path)), spec))
