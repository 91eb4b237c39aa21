"""Loads images for training and evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from sightline.data.classification import ClassificationDataset, ClassificationImage
from sightline.images import read_image
from sightline.preprocess import Frame, InputSpec, Preprocessor
from trainer.recipe import Recipe

Key = tuple[int, int]  # (epoch, index)


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Training images: cropped at random, through the device's own preprocessing, then torchvision's augmentations.

    A key is (epoch, index). The randomness is a function of (seed, key): the number of workers and a resume change
    nothing. Items: (uint8 [height, width, 3] RGB, class).
    """

    def __init__(self, data: ClassificationDataset, spec: InputSpec, recipe: Recipe) -> None:
        self.root, self.images, self.seed, self.augment = data.root, data.train, recipe.seed, recipe.augment
        self.preprocess = Preprocessor(spec)
        steps: list[torch.nn.Module] = []
        if recipe.flip and self.augment != "none":
            steps.append(v2.RandomHorizontalFlip())
        if self.augment == "light":
            steps += [v2.RandomRotation(8, fill=spec.pad), v2.ColorJitter(0.3, 0.3)]
        elif self.augment == "default":
            steps += [
                v2.RandomAffine(10, translate=(0.08, 0.08), fill=spec.pad),
                v2.ColorJitter(0.3, 0.3, 0.3),  # without hue, which would halve the speed of all
                v2.RandomErasing(0.1, scale=(0.02, 0.15)),
            ]
        elif self.augment == "strong":
            steps += [v2.TrivialAugmentWide(fill=spec.pad), v2.RandomErasing(0.25)]
        self.transform = v2.Compose(steps) if steps else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, index = key
        labelled = self.images[index]
        frame = read_image(self.root / labelled.path)
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        if self.augment != "none":
            x, y, w, h = random_window(frame, rng, min_area=0.8 if self.augment == "light" else 0.5)
            frame = frame[y : y + h, x : x + w]
        image = torch.from_numpy(self.preprocess(frame))
        if self.transform:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(rng.getrandbits(62))
                image = self.transform(image.permute(2, 0, 1)).permute(1, 2, 0)
        return image, labelled.label


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images exactly as the device sees them. Items are those of `AugmentedImages`, keys are indices."""

    def __init__(self, root: Path, images: Sequence[ClassificationImage], spec: InputSpec) -> None:
        self.root, self.images = root, images
        self.preprocess = Preprocessor(spec)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        labelled = self.images[index]
        return torch.from_numpy(self.preprocess(read_image(self.root / labelled.path))), labelled.label


class Shuffled(Sampler[list[Key]]):
    """Batches of keys in an order that is a function of (seed, epoch). With several processes, this rank's share.

    The last, smaller batch is left out: it harms batch norm. Each epoch leaves out other images.

    epoch: set by the training loop before each epoch.
    """

    def __init__(self, count: int, batch: int, seed: int, rank: int, world: int) -> None:
        self.count, self.batch, self.seed, self.rank, self.world = count, min(batch, count // world), seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return self.count // (self.batch * self.world)

    def __iter__(self) -> Iterator[list[Key]]:
        order = list(range(self.count))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        whole = self.batch * self.world
        for i in range(len(self)):
            share = order[i * whole + self.rank : (i + 1) * whole : self.world]
            yield [(self.epoch, index) for index in share]


def loader(
    dataset: Dataset[Any],
    workers: int,
    *,
    collate: Callable[..., Any] | None = None,
    batches: Shuffled | None = None,
    batch: int = 1,
) -> DataLoader[Any]:
    """A loader for training (with `batches`) or for evaluation in order (with `batch`).

    collate: makes a batch of items; None = torch's own.
    """
    shared: dict[str, Any] = {
        "collate_fn": collate,
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _one_thread,
        # its own generator: seeding the workers must not advance the model's random state, or a resume would differ
        "generator": torch.Generator(),
        "persistent_workers": workers > 0,
    }
    if batches is not None:
        return DataLoader(dataset, batch_sampler=batches, **shared)
    return DataLoader(dataset, batch_size=batch, **shared)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def random_window(frame: Frame, rng: random.Random, min_area: float) -> tuple[int, int, int, int]:
    """(x, y, width, height) of a random part of the frame, its proportions changed by up to a fifth.

    min_area: smallest part, as a fraction of the frame's area.
    """
    height, width = frame.shape[:2]
    area = rng.uniform(min_area, 1.0)
    ratio = math.exp(rng.uniform(-0.18, 0.18))
    w = max(1, min(width, round(width * math.sqrt(area) * ratio)))
    h = max(1, min(height, round(height * math.sqrt(area) / ratio)))
    x, y = rng.randint(0, width - w), rng.randint(0, height - h)
    return x, y, w, h
