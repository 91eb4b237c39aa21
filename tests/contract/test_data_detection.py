"""Boxes in three people's formats: the same set reads the same, and what is wrong with one is named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sightline.data.detection import DetectionDataset, DetectionImage, read_boxes
from sightline.data.formats import find_format, read_format
from sightline.errors import DataError
from tests.conftest import Sightline

LABELS = ("cap", "no cap")
Given = dict[str, list[tuple[str, float, float, float, float]]]  # {picture: (label, x, y, width, height)}
SIZE = (80, 60)


def pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = np.random.default_rng(list(name.encode())).integers(0, 255, (*SIZE[::-1], 3), np.uint8)
        cv2.imwrite(str(folder / name), noise)


def coco(root: Path, given: Given, names: tuple[str, ...] = LABELS) -> None:
    pictures(root / "images", list(given))
    images = [{"id": i, "file_name": n, "width": SIZE[0], "height": SIZE[1]} for i, n in enumerate(given, 7)]
    annotations = [
        {"id": k, "image_id": i, "category_id": 3 + names.index(b[0]), "bbox": list(b[1:])}
        for i, boxes in enumerate(given.values(), 7)
        for k, b in enumerate(boxes)
    ]
    categories = [{"id": 3 + i, "name": n} for i, n in enumerate(names)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances.json").write_text(json.dumps(document))


def voc(root: Path, given: Given) -> None:
    pictures(root / "JPEGImages", list(given))
    (root / "Annotations").mkdir()
    for name, boxes in given.items():
        things = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for label, x, y, w, h in boxes
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}</filename><path>C:\\gone\\{name}</path>{size}{things}</annotation>"
        (root / "Annotations" / f"{Path(name).stem}.xml").write_text(text)


def yolo(root: Path, given: Given, names: Any = LABELS) -> None:
    pictures(root / "images", list(given))
    (root / "labels").mkdir()
    index = {n: i for i, n in enumerate(names.values() if isinstance(names, dict) else names)}
    for name, boxes in given.items():
        lines = [
            f"{index[b]} {(x + w / 2) / SIZE[0]} {(y + h / 2) / SIZE[1]} {w / SIZE[0]} {h / SIZE[1]}"
            for b, x, y, w, h in boxes
        ]
        (root / "labels" / f"{Path(name).stem}.txt").write_text("\n".join(lines))
    listed = "".join(f"\n  {k}: {v}" for k, v in names.items()) if isinstance(names, dict) else f" {list(names)}"
    (root / "data.yaml").write_text(f"path: /gone/elsewhere\ntrain: images\nval: images\nnames:{listed}\n")


GIVEN: Given = {
    f"{i:02}.png": [("cap", 10 + i, 5, 20, 30), ("no cap", 40, 20, 16, 10)] if i % 3 else [("no cap", 0, 0, 80, 60)]
    for i in range(20)
} | {"empty.png": []}
WRITERS: dict[str, Callable[[Path, Given], None]] = {"coco": coco, "voc": voc, "yolo": yolo}


def all_of(data: DetectionDataset) -> list[DetectionImage]:
    return sorted((*data.train, *data.val), key=lambda p: p.path)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_set_reads_the_same_in_each_format(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path, GIVEN)
    assert find_format(tmp_path) == kind
    data = read_boxes(tmp_path)
    assert data.labels == LABELS and data.format == kind and data.problems == ()
    assert [Path(p.path).name for p in all_of(data)] == sorted(GIVEN)
    for picture in all_of(data):
        assert (picture.width, picture.height) == SIZE
        wanted = GIVEN[Path(picture.path).name]
        got = [(LABELS[b.label], b.x, b.y, b.width, b.height) for b in picture.boxes]
        assert [g[0] for g in got] == [w[0] for w in wanted]
        assert np.allclose([g[1:] for g in got], [w[1:] for w in wanted], atol=1e-4)
    assert len(data.val) == 4 and data.leaked == 0


def test_the_split_is_of_the_contents_and_the_seed(tmp_path: Path) -> None:
    voc(tmp_path / "a", GIVEN)
    coco(tmp_path / "b", GIVEN)
    one, other = read_boxes(tmp_path / "a"), read_boxes(tmp_path / "b")
    assert {p.sha256 for p in one.val} == {p.sha256 for p in other.val}
    assert one.fingerprint == other.fingerprint, "the format is not what is learned"
    again = read_boxes(tmp_path / "a", seed=1)
    assert {p.sha256 for p in again.val} != {p.sha256 for p in one.val}
    assert again.fingerprint != one.fingerprint


def test_a_split_that_somebody_made_stays(tmp_path: Path) -> None:
    names = sorted(GIVEN)
    for part, some in (("train", names[:15]), ("valid", names[15:])):
        yolo(tmp_path / part, {n: GIVEN[n] for n in some})
        (tmp_path / part / "data.yaml").unlink()
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: {0: cap, 1: no cap}\n")
    data = read_boxes(tmp_path)
    assert (len(data.train), len(data.val)) == (15, 6)
    coco(tmp_path / "c", GIVEN)
    document = json.loads((tmp_path / "c/annotations/instances.json").read_text())
    (tmp_path / "c/annotations/instances.json").unlink()
    for part, keep in (("train", range(7, 22)), ("val", range(22, 28))):
        images = [i for i in document["images"] if i["id"] in keep]
        annotations = [a for a in document["annotations"] if a["image_id"] in keep]
        part_document = {**document, "images": images, "annotations": annotations}
        (tmp_path / f"c/annotations/instances_{part}2026.json").write_text(json.dumps(part_document))
    data = read_boxes(tmp_path / "c")
    assert (len(data.train), len(data.val)) == (15, 6)


WRONG: dict[str, tuple[tuple[str, float, float, float, float], str]] = {
    "outside": (("cap", 70, 5, 20, 30), "reaches outside the image, which is 80x60"),
    "empty": (("cap", 10, 10, 0, 5), "has no area"),
    "duplicate": (("cap", 11, 5, 20, 30), "is a duplicate"),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("problem", WRONG)
def test_a_box_that_is_wrong_is_named_and_left_out_on_demand(kind: str, problem: str, tmp_path: Path) -> None:
    box, words = WRONG[problem]
    WRITERS[kind](tmp_path, {**GIVEN, "01.png": [*GIVEN["01.png"], box]})
    with pytest.raises(DataError) as error:
        read_boxes(tmp_path)
    assert f"1 {problem}" in str(error.value) and words in str(error.value) and "01" in str(error.value)
    data = read_boxes(tmp_path, wrong="skip")
    assert [p.kind for p in data.problems] == [problem]
    (picture,) = (p for p in all_of(data) if p.path.endswith("01.png"))
    assert len(picture.boxes) == (3 if problem == "outside" else 2)
    for b in picture.boxes:
        assert b.x >= 0 and b.x + b.width <= 80 and b.y >= 0 and b.y + b.height <= 60


def test_a_pixel_over_the_edge_is_rounding(tmp_path: Path) -> None:
    voc(tmp_path, {**GIVEN, "01.png": [("cap", 60, 40, 21, 21)]})
    data = read_boxes(tmp_path)
    assert data.problems == ()
    (picture,) = (p for p in all_of(data) if p.path.endswith("01.png"))
    assert (picture.boxes[0].width, picture.boxes[0].height) == (20, 20)


def test_pictures_that_are_missing_corrupt_or_turned_are_named(tmp_path: Path) -> None:
    voc(tmp_path, GIVEN)
    images = tmp_path / "JPEGImages"
    (images / "02.png").unlink()
    (images / "03.png").write_bytes((images / "03.png").read_bytes()[:200])
    cv2.imwrite(str(images / "04.png"), np.zeros((80, 60, 3), np.uint8))
    data = read_boxes(tmp_path, wrong="skip")
    assert Counter(p.kind for p in data.problems) == {"missing image": 1, "corrupt image": 1, "other size": 1}
    assert any("Was it rotated after it was annotated?" in p.text for p in data.problems)
    assert len(all_of(data)) == len(GIVEN) - 3


def test_a_class_that_there_is_not_is_named(tmp_path: Path) -> None:
    yolo(tmp_path, GIVEN)
    path = tmp_path / "labels" / "05.txt"
    path.write_text(path.read_text() + "\n7 0.5 0.5 0.1 0.1\n0 0.5 0.5\ncap 0.5 0.5 0.1 0.1\n")
    data = read_boxes(tmp_path, wrong="skip")
    assert Counter(p.kind for p in data.problems) == {"wrong class": 1, "unreadable": 2}
    assert any("#7" in p.text and "The classes are: cap, no cap" in p.text for p in data.problems)
    coco(tmp_path / "c", GIVEN)
    file = tmp_path / "c/annotations/instances.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["category_id"] = 99
    document["annotations"][1]["bbox"] = [1, 2, 3]
    document["annotations"][2]["iscrowd"] = 1
    file.write_text(json.dumps(document))
    kinds = Counter(p.kind for p in read_boxes(tmp_path / "c", wrong="skip").problems)
    assert kinds == {"wrong class": 1, "unreadable": 1}


def test_a_picture_in_both_parts_is_told(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        yolo(tmp_path / part, GIVEN)
        (tmp_path / part / "data.yaml").unlink()
    (tmp_path / "data.yaml").write_text("train: train/images\nval: valid/images\nnames: [cap, no cap]\n")
    assert read_boxes(tmp_path).leaked == len(GIVEN)


def test_equal_pictures_stay_on_one_side(tmp_path: Path) -> None:
    voc(tmp_path, GIVEN)
    for i in range(8):
        (tmp_path / f"JPEGImages/{i:02}.png").write_bytes((tmp_path / "JPEGImages/00.png").read_bytes())
    assert read_boxes(tmp_path).leaked == 0


def test_what_is_no_such_folder_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_boxes(tmp_path / "absent")
    pictures(tmp_path / "x", ["a.png"])
    with pytest.raises(DataError, match=r"no annotations\. Expected a COCO \.json .*a YOLO data\.yaml"):
        read_boxes(tmp_path / "x")
    coco(tmp_path / "both", GIVEN)
    (tmp_path / "both" / "a.xml").write_text("<annotation/>")
    with pytest.raises(DataError, match="Choose one with --format: coco, voc"):
        read_boxes(tmp_path / "both")
    assert len(read_format(tmp_path / "both", "coco").images) == len(GIVEN)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [], "annotations": [], "categories": 5}', "not COCO's form"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 2}], "categories": []}', "does not list"),
        ('{"images": [], "annotations": [', "not COCO's form"),
        ('{"images": [], "annotations": [], "categories": []}', "no images are annotated"),
    ],
)
def test_a_file_that_is_not_what_it_looks_like_is_named(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError) as error:
        read_boxes(tmp_path)
    assert words in str(error.value)


def test_other_names_in_yolos_file_are_understood(tmp_path: Path) -> None:
    yolo(tmp_path, GIVEN, {0: "cap", 1: "no cap"})
    assert read_boxes(tmp_path).labels == LABELS
    (tmp_path / "list.txt").write_text("\n".join(f"images/{n}" for n in GIVEN))
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [cap, no cap]\n")
    assert len(all_of(read_boxes(tmp_path))) == len(GIVEN)
    (tmp_path / "data.yaml").write_text("train: nowhere\nnames: [cap, no cap]\n")
    with pytest.raises(DataError, match=r"train in data\.yaml is 'nowhere'"):
        read_boxes(tmp_path)


def _coco_with(**image: object) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        coco(root, GIVEN)
        file = root / "annotations/instances.json"
        document = json.loads(file.read_text())
        document["images"][0] |= image
        # 1e400 is JSON, and infinite in Python
        file.write_text(json.dumps(document).replace("Infinity", "1e400"))

    return write


def _with(write: Callable[[Path, Given], None], name: str, content: bytes) -> Callable[[Path], None]:
    def both(root: Path) -> None:
        write(root, GIVEN)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return both


def _names(names: str) -> Callable[[Path], None]:
    return _with(yolo, "data.yaml", f"train: images\nval: images\nnames: {names}\n".encode())


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "COCO, a width that is a text": (_coco_with(width="abc"), "image 7: width 'abc' is not a number of pixels"),
    "COCO, a width without end": (_coco_with(width=float("inf")), "image 7: width inf is not a number of pixels"),
    "COCO, a name that is no text": (_coco_with(file_name=["a"]), "image 7: file_name"),
    "COCO, a name with a zero byte": (_coco_with(file_name="a\0b.png"), "1 missing image"),
    "COCO, a name that is too long": (_coco_with(file_name="x" * 300), "1 missing image"),
    "COCO, a name of half a surrogate": (_coco_with(file_name="\ud800.png"), "1 missing image"),
    "COCO, nesting": (
        _with(coco, "annotations/instances.json", b'{"images": [], "annotations": ' + b"[" * 200_000),
        "nested too deep",
    ),
    "VOC, a coding that Python lacks": (
        _with(voc, "Annotations/00.xml", b'<?xml version="1.0" encoding="x-none"?><annotation/>'),
        "00.xml: not readable XML",
    ),
    "VOC, big5": (
        _with(voc, "Annotations/00.xml", b'<?xml version="1.0" encoding="big5"?><annotation/>'),
        "00.xml: not readable XML",
    ),
    "VOC, a split that is no UTF-8": (
        _with(voc, "ImageSets/Main/train.txt", b"caf\xe9"),
        "train.txt, line 1: not UTF-8",
    ),
    "YOLO, names: 5": (_names("5"), "names: must be a list of the classes"),
    "YOLO, names: null": (_names(""), "names: must be a list of the classes"),
    "YOLO, names by name": (_names("{a: b}"), "names: 'a' is not the number of a class"),
    "YOLO, names: yes": (_names("[yes, no]"), "the class name True is not text. Put it in quotes"),
    "YOLO, a date": (_names("[2026-11-25, cap]"), "line 3: 2026-11-25 is read as a date"),
    "YOLO, a name twice": (_names("[cap, cap]"), "two classes are called 'cap'"),
    "YOLO, aliases without end": (
        _with(yolo, "data.yaml", f"{BOMB}names: *a9\ntrain: images\n".encode()),
        "has more than",
    ),
    "YOLO, labels that are no UTF-8": (_with(yolo, "labels/00.txt", b"0 .5 .5\n\xff"), "00.txt, line 2: not UTF-8"),
    "YOLO, a list that leads out": (
        _with(yolo, "data.yaml", b"train: list.txt\nnames: [cap, no cap]\n"),
        "list.txt, line 1: '../../etc/passwd' leads out of",
    ),
    "YOLO, another folder": (
        _with(yolo, "data.yaml", b"train: /usr\nnames: [cap, no cap]\n"),
        "is outside",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_in_a_file_is_told_with_the_file(name: str, tmp_path: Path) -> None:
    write, words = SPOILT[name]
    write(tmp_path)
    (tmp_path / "list.txt").write_text("../../etc/passwd\n")
    with pytest.raises(DataError) as e:
        read_boxes(tmp_path)
    assert words in str(e.value), str(e.value)


def test_numbers_that_are_not_finite_are_no_box(tmp_path: Path) -> None:
    yolo(tmp_path, GIVEN)
    (tmp_path / "labels/00.txt").write_text("0 nan 0.5 0.1 0.1\n0 inf 0.5 0.1 0.1\n")
    assert Counter(p.kind for p in read_boxes(tmp_path, wrong="skip").problems) == {"unreadable": 2}


def test_folders_that_are_called_as_files_are_no_annotations(tmp_path: Path) -> None:
    yolo(tmp_path, GIVEN)
    for name in ("x.xml", "y.json", "z.yaml", "images/p.png"):
        (tmp_path / name).mkdir()
    assert len(all_of(read_boxes(tmp_path))) == len(GIVEN)


@pytest.mark.parametrize("name", ["../out.png", "/out.png", "a/../../out.png"])
def test_a_picture_outside_of_the_folder_is_not_read(name: str, tmp_path: Path) -> None:
    pictures(tmp_path, ["out.png"])
    _coco_with(file_name=str(tmp_path / "out.png") if name == "/out.png" else name)(tmp_path / "data")
    data = read_boxes(tmp_path / "data", wrong="skip")
    assert [p.kind for p in data.problems] == ["missing image"]
    assert all((tmp_path / "data" / p.path).resolve().is_relative_to(tmp_path / "data") for p in all_of(data))


def test_yolo_without_its_file_is_told(tmp_path: Path) -> None:
    voc(tmp_path, GIVEN)
    with pytest.raises(DataError, match=r"no data\.yaml"):
        read_boxes(tmp_path, kind="yolo")


def test_inspect_shows_what_a_folder_holds(tmp_path: Path, sightline: Sightline) -> None:
    yolo(tmp_path, {**GIVEN, "01.png": [*GIVEN["01.png"], ("cap", 70, 5, 20, 30)]})
    done = sightline("inspect", tmp_path, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    for words in ("YOLO, 21 images, 34 boxes", "no cap", "problems: 1 outside", "1 images have none"):
        assert words in done.stdout, done.stdout
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None and sheet.shape == (1200, 1280, 3)
    figures = json.loads(sightline("inspect", tmp_path, "--json").stdout)
    assert figures["boxes"] == 34 and figures["problem_counts"] == {"outside": 1}
    assert figures["classes"]["cap"][0] + figures["classes"]["cap"][1] == 14
    assert sum(figures["sizes"]) == 34


def test_inspect_of_a_folder_that_is_nothing_says_so(tmp_path: Path, sightline: Sightline) -> None:
    done = sightline("inspect", tmp_path, "--format", "voc")
    assert done.returncode == 2 and "no images are annotated" in done.stderr
