"""Pictures on their way into training: random, and yet a function of (seed, epoch, index) alone."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch

from sightline.data.classification import ClassificationDataset, read_class_folders
from sightline.preprocess import InputSpec, Resize, preprocess
from tests.support.training import recipe
from trainer.classification_data import AugmentedImages, PlainImages, Shuffled, loader

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

SPEC = InputSpec(32, 32)


@pytest.fixture(scope="module")
def data(pictures: Path) -> ClassificationDataset:
    return read_class_folders(pictures)


def augmented(
    data: ClassificationDataset, augment: str = "default", seed: int = 0, flip: bool = True
) -> AugmentedImages:
    return AugmentedImages(data, SPEC, recipe(augment=augment, seed=seed, flip=flip))


def an_epoch(
    data: ClassificationDataset, augment: str, workers: int, epoch: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    batches = Shuffled(len(data.train), 16, seed=0, rank=0, world=1)
    batches.epoch = epoch
    images, labels = zip(*loader(augmented(data, augment), workers, batches=batches), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than this machine has cores
@pytest.mark.parametrize("augment", ["light", "default", "strong"])
def test_the_number_of_workers_changes_nothing(data: ClassificationDataset, augment: str) -> None:
    torch.manual_seed(1)
    images, labels = an_epoch(data, augment, workers=0)
    assert (images.shape, images.dtype) == ((48, 32, 32, 3), torch.uint8)
    for seed, workers in ((2, 1), (3, 3)):
        torch.manual_seed(seed)  # and neither does the state of the process
        again, labels_again = an_epoch(data, augment, workers)
        assert torch.equal(again, images)
        assert torch.equal(labels_again, labels)


@pytest.mark.parametrize("augment", ["light", "default", "strong"])
def test_a_picture_is_a_function_of_its_key_and_of_the_seed(data: ClassificationDataset, augment: str) -> None:
    dataset = augmented(data, augment)
    first = [dataset[3, i][0] for i in range(8)]
    dataset[9, 9]  # whatever was made in between
    torch.rand(5)
    assert all(torch.equal(dataset[3, i][0], image) for i, image in reversed(list(enumerate(first))))
    assert not all(torch.equal(dataset[4, i][0], first[i]) for i in range(8)), "the epoch makes no difference"
    other = augmented(data, augment, seed=1)
    assert not all(torch.equal(other[3, i][0], first[i]) for i in range(8)), "the seed makes no difference"


def test_making_pictures_leaves_the_processs_random_state_alone(data: ClassificationDataset) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    augmented(data, "strong")[0, 0]
    assert torch.equal(torch.rand(3), expected)


def test_without_augmentation_pictures_are_as_the_device_makes_them(data: ClassificationDataset) -> None:
    dataset = augmented(data, "none")
    plain = PlainImages(data.root, data.train, SPEC)
    for i, p in enumerate(data.train[:10]):
        expected = preprocess(cv2.imread(str(data.root / p.path)), SPEC)
        for image, label in (dataset[7, i], plain[i]):
            assert np.array_equal(image.numpy(), expected)
            assert label == p.label


@pytest.mark.parametrize("resize", get_args(Resize))
def test_evaluation_sees_what_the_device_makes(data: ClassificationDataset, resize: Resize) -> None:
    spec = InputSpec(24, 20, resize)
    images, labels = zip(*loader(PlainImages(data.root, data.val, spec), 0, batch=5), strict=True)
    expected = [preprocess(cv2.imread(str(data.root / p.path)), spec) for p in data.val]
    assert np.array_equal(torch.cat(images).numpy(), np.stack(expected))
    assert torch.cat(labels).tolist() == [p.label for p in data.val]


def test_flips_happen_only_where_they_are_wanted(tmp_path: Path) -> None:
    """Dark on the left, light on the right: what is never mirrored stays so."""
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:, 16:] = 200
    for label in "ab":
        for i in range(2):
            (tmp_path / label).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / label / f"{i}.png"), frame + np.uint8(i + 3 * (label == "b")))
    data = read_class_folders(tmp_path)

    def mirrored(flip: bool) -> int:
        dataset = augmented(data, "light", flip=flip)
        images = [dataset[epoch, 0][0].float() for epoch in range(60)]
        return sum(bool(image[8:24, 4:10].mean() > image[8:24, 22:28].mean()) for image in images)

    assert mirrored(flip=False) == 0
    assert 10 < mirrored(flip=True) < 50


@pytest.mark.parametrize(("count", "batch", "world"), [(48, 16, 1), (50, 16, 1), (50, 8, 2), (7, 64, 1), (7, 64, 3)])
def test_an_epoch_takes_each_picture_at_most_once_whatever_the_processes(count: int, batch: int, world: int) -> None:
    ranks = [Shuffled(count, batch, seed=0, rank=rank, world=world) for rank in range(world)]
    for epoch in range(3):
        taken: list[int] = []
        for shuffled in ranks:
            shuffled.epoch = epoch
            batches = list(shuffled)
            assert len(batches) == len(shuffled) == len(ranks[0]) > 0
            assert {len(keys) for keys in batches} == {shuffled.batch}
            assert {key[0] for keys in batches for key in keys} == {epoch}
            taken += [key[1] for keys in batches for key in keys]
        assert len(taken) == len(set(taken)) == len(ranks[0]) * ranks[0].batch * world
        assert set(taken) <= set(range(count))
        assert count - len(taken) < ranks[0].batch * world


def test_the_order_is_a_function_of_the_seed_and_the_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        shuffled = Shuffled(64, 8, seed, 0, 1)
        shuffled.epoch = epoch
        return [index for keys in shuffled for _, index in keys]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 0)) == list(range(64))


def test_two_processes_together_see_the_batches_of_one() -> None:
    one = Shuffled(64, 16, 0, 0, 1)
    two = [Shuffled(64, 8, 0, rank, 2) for rank in range(2)]
    for whole, *halves in zip(one, *two, strict=True):
        assert sorted(whole) == sorted(halves[0] + halves[1])
