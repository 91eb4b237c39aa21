"""The one JSON form in which results leave a device, against its schema; and the schema against wrong results."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sightline
from sightline.predictions import Cause, Classification, ModelId, Result

SCHEMA = json.loads((Path(sightline.__file__).parent / "prediction.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
MODEL = ModelId("lamp", "20250101-0123abcd", "0123456789abcdef" * 4)
TIME = "2025-01-02T03:04:05.678Z"
OK = Result(
    "desktop", "camera.mp4", 7, TIME, 123, MODEL, 640, 480, {"inference": 1.23456, "total": 2.0},
    (Classification("lit", 1, 0.987654321),), {"overwritten": 3},
)  # fmt: skip
NOT_INFERRED = Result(
    "desktop", "0", 8, TIME, 124, MODEL, None, None, {}, (), {}, Cause("no_frame", "the camera gives no frame")
)  # fmt: skip


def sent(result: Result) -> Any:
    """What somebody at the other end reads; json itself refuses what is no JSON."""
    return json.loads(json.dumps(result.to_json(), allow_nan=False))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_result_has_this_form() -> None:
    assert sent(OK) == {
        "schema": 1,
        "device": "desktop",
        "source": "camera.mp4",
        "frame_id": 7,
        "captured_at": TIME,
        "captured_monotonic_ns": 123,
        "model": {"name": "lamp", "version": "20250101-0123abcd", "sha256": "0123456789abcdef" * 4},
        "image": {"width": 640, "height": 480},
        "latency_ms": {"inference": 1.235, "total": 2.0},
        "dropped": {"overwritten": 3},
        "status": "ok",
        "cause": None,
        "cause_code": None,
        "predictions": [{"kind": "classification", "label": "lit", "index": 1, "score": 0.98765}],
    }
    VALIDATOR.validate(sent(OK))


def test_what_was_not_inferred_says_so_and_why() -> None:
    VALIDATOR.validate(sent(NOT_INFERRED))
    assert sent(NOT_INFERRED)["status"] == "not_inferred"
    assert sent(NOT_INFERRED)["cause"] == "the camera gives no frame"
    assert sent(NOT_INFERRED)["cause_code"] == "no_frame"
    assert sent(NOT_INFERRED)["image"] is None


def test_a_frame_that_was_seen_but_not_inferred_may_have_its_size() -> None:
    seen = Result("desktop", "0", 8, TIME, 1, MODEL, 640, 480, {}, (), {}, Cause("stale", "the page is busy"))
    VALIDATOR.validate(sent(seen))


def test_looking_and_seeing_nothing_is_a_result() -> None:
    VALIDATOR.validate(sent(Result("desktop", "0", 0, TIME, 1, MODEL, 1, 1, {}, ())))


classifications = st.builds(Classification, label=st.text(), index=st.integers(0, 10_000), score=st.floats(0, 1))
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
results = st.builds(
    Result,
    device=st.text(),
    source=st.text(),
    frame_id=st.integers(0, 2**53),
    captured_ns=st.integers(0, 2**63),
    captured_at=st.datetimes().map(lambda t: t.isoformat(timespec="milliseconds") + "Z"),
    model=st.builds(ModelId, name=st.text(min_size=1), version=st.text(min_size=1), sha256=hashes),
    width=st.integers(1, 10_000),
    height=st.integers(1, 10_000),
    latency_ms=st.dictionaries(st.text(), st.floats(0, 1e9)),
    predictions=st.lists(classifications, max_size=5).map(tuple),
    dropped=st.dictionaries(st.text(), st.integers(1, 10**9)),
    cause=st.none(),
)


@settings(deadline=None)
@given(results)
def test_any_result_is_valid_and_keeps_its_texts(result: Result) -> None:
    document = sent(result)
    VALIDATOR.validate(document)
    assert [p["label"] for p in document["predictions"]] == [p.label for p in result.predictions]
    assert (document["device"], document["source"]) == (result.device, result.source)
    for p, given_ in zip(document["predictions"], result.predictions, strict=True):
        assert p["score"] == pytest.approx(given_.score, abs=5e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema=2),
        lambda d: d.update(more=1),
        lambda d: d.pop("device"),
        lambda d: d.pop("cause"),
        lambda d: d.update(status="busy"),
        lambda d: d.update(status="not_inferred", cause="why"),  # and yet it has predictions
        lambda d: d.update(status="not_inferred", predictions=[]),  # and no cause
        lambda d: d.update(cause="why"),  # though it is ok
        lambda d: d.update(image=None),
        lambda d: d.update(image={"width": 0, "height": 1}),
        lambda d: d.update(frame_id=-1),
        lambda d: d.update(frame_id=1.5),
        lambda d: d.update(captured_at="2025-01-02T03:04:05.678"),
        lambda d: d.update(captured_at="2025-01-02 03:04:05.678Z"),
        lambda d: d.update(dropped={"overwritten": 0}),
        lambda d: d.update(latency_ms={"total": -1}),
        lambda d: d["model"].update(sha256="0123"),
        lambda d: d["model"].update(path="/home"),
        lambda d: d["predictions"][0].update(kind="detection"),
        lambda d: d["predictions"][0].pop("score"),
        lambda d: d["predictions"][0].update(box=[0, 0, 1, 1]),
    ],
)
def test_the_schema_says_no_to_a_wrong_result(change: Callable[[dict[str, Any]], object]) -> None:
    document = copy.deepcopy(sent(OK))
    VALIDATOR.validate(document)
    change(document)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(document)
