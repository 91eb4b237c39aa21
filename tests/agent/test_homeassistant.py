"""What Home Assistant is told, held against what its documentation demands of MQTT device discovery.

Facts from https://www.home-assistant.io/integrations/mqtt/ and the pages of its camera, sensor, binary_sensor and
number platforms: what is required, what is known, and which values are.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from edge.outputs.homeassistant import discovery, discovery_topic
from edge.outputs.mqtt_state import state_of
from edge.results.zones import Zone
from sightline.predictions import Cause, Classification, ModelId, Result
from sightline.text import slugs

MODEL = ModelId("caps", "1.2", "ab" * 32)
TEXT = {"type": "string", "minLength": 1}
TOPIC = {"type": "string", "pattern": "^[^#+\\x00]+$"}
AVAILABILITY = {
    "availability": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["topic"],
            "additionalProperties": False,
            "properties": {"topic": TOPIC, "value_template": TEXT, "payload_available": TEXT},
        },
    },
    "availability_mode": {"enum": ["all", "any", "latest"]},
}
COMMON = {
    "p": TEXT,
    "name": TEXT,
    "unique_id": TEXT,
    **AVAILABILITY,
    "entity_category": {"enum": ["config", "diagnostic"]},
    "json_attributes_topic": TOPIC,
    "json_attributes_template": TEXT,
}
READ = {"state_topic": TOPIC, "value_template": TEXT}


def platform(required: list[str], **properties: Any) -> dict[str, Any]:
    needed = ["p", "name", "unique_id", "availability", *required]  # that of the device would stand beside it
    return {
        "type": "object",
        "required": needed,
        "additionalProperties": False,
        "properties": {**COMMON, **properties},
    }


PLATFORMS = {
    "camera": platform(["topic"], topic=TOPIC, image_encoding={"const": "b64"}),
    "sensor": platform(
        ["state_topic"],
        **READ,
        unit_of_measurement=TEXT,
        state_class={"enum": ["measurement", "total", "total_increasing"]},
        device_class={"enum": ["temperature", "frequency", "duration", "data_size"]},
        suggested_display_precision={"type": "integer"},
        entity_category={"const": "diagnostic"},
    ),
    "binary_sensor": platform(
        ["state_topic"], **READ, device_class={"enum": ["occupancy", "problem", "connectivity", "motion"]},
        entity_category={"const": "diagnostic"},
    ),
    "number": platform(
        ["command_topic"],
        **READ,
        command_topic=TOPIC,
        min={"type": "number"},
        max={"type": "number"},
        step={"type": "number", "minimum": 0.001},
        mode={"enum": ["auto", "box", "slider"]},
    ),
}  # fmt: skip
DEVICE = {
    "type": "object",
    "required": ["dev", "o", "cmps"],
    "additionalProperties": False,
    "properties": {
        "dev": {
            "type": "object",
            "required": ["ids", "name"],
            "additionalProperties": False,
            "properties": {
                "ids": {"type": "array", "items": TEXT, "minItems": 1},
                **dict.fromkeys(("name", "mf", "mdl", "sw", "hw", "sn", "cu"), TEXT),
            },
        },
        "o": {"type": "object", "required": ["name"], "properties": {"name": TEXT, "sw": TEXT, "url": TEXT}},
        "cmps": {"type": "object", "minProperties": 1},
        "qos": {"enum": [0, 1, 2]},
    },
}


def discovery_of(*cameras: str) -> dict[str, Any]:
    return discovery("pi", "sightline/pi", slugs(cameras), MODEL)


@pytest.mark.parametrize("cameras", [("door",), ("door", "../../etc/x#+", "<b>line</b> 2", "a b", "a_b")])
def test_the_document_is_as_home_assistant_wants_it(cameras: tuple[str, ...]) -> None:
    document = discovery_of(*cameras)
    jsonschema.validate(document, DEVICE)
    for key, component in document["cmps"].items():
        assert component["p"] in PLATFORMS, key
        jsonschema.validate(component, PLATFORMS[component["p"]])
    ids = [c["unique_id"] for c in document["cmps"].values()]
    assert len(set(ids)) == len(ids) == 6 * len(cameras) + 5
    assert all(i.replace("_", "").isalnum() for i in ids)
    names = [c["name"] for c in document["cmps"].values()]
    assert len(set(names)) == len(names), "two things of the same name cannot be told apart"


def test_zones_and_lines_have_their_counts() -> None:
    zones = [Zone("zone", "door", ((0, 0), (1, 0), (1, 1))), Zone("line", "gate", ((0, 0), (1, 1)), "yard")]
    document = discovery("pi", "sightline/pi", slugs(["yard", "roof"]), MODEL, zones)
    for component in document["cmps"].values():
        jsonschema.validate(component, PLATFORMS[component["p"]])
    found = {c["name"]: c for k, c in document["cmps"].items() if "_zone_" in k or "_line_" in k}
    assert set(found) == {"Yard door inside", "Yard gate right", "Yard gate left", "Roof door inside"}
    assert found["Yard gate left"]["state_class"] == "total_increasing"
    assert found["Yard gate left"]["value_template"] == "{{ value_json.zones['gate']['left'] }}"
    assert found["Roof door inside"]["state_topic"] == "sightline/pi/roof/state"


def test_a_wrong_document_would_be_found() -> None:
    component = dict(next(c for c in discovery_of("door")["cmps"].values() if c["p"] == "number"))
    del component["command_topic"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(component, PLATFORMS["number"])


def test_a_person_finds_what_they_look_for() -> None:
    document = discovery_of("door")
    platforms = {c["name"]: c["p"] for c in document["cmps"].values()}
    assert platforms == {
        "Image": "camera", "Label": "sensor", "Score": "sensor", "Count": "sensor", "Occupancy": "binary_sensor",
        "Camera": "binary_sensor", "Frames per second": "sensor", "Temperature": "sensor", "Waiting messages": "sensor",
        "Model": "sensor", "Threshold": "number",
    }  # fmt: skip
    assert document["dev"]["sw"] == f"1.2 ({'ab' * 6})"
    assert discovery_topic("pi") == "homeassistant/device/sightline_pi/config"


def test_the_ids_are_the_same_whatever_model_runs() -> None:
    ids = [c["unique_id"] for c in discovery_of("door")["cmps"].values()]
    other = discovery("pi", "sightline/pi", slugs(["door"]), ModelId("another", "9", "cd" * 32))
    assert [c["unique_id"] for c in other["cmps"].values()] == ids


def test_every_template_finds_its_value() -> None:
    """The keys that the templates name are those of the states."""
    seen = Result("d", "door", 1, "t", 1, MODEL, 8, 6, {}, (Classification("fox", 0, 0.9),))
    away = Result("d", "door", 1, "t", 1, MODEL, None, None, {}, (), {}, Cause("camera", "unplugged"))
    agent = {"fps", "temperature", "threshold", "model", "waiting"}
    for component in discovery_of("door")["cmps"].values():
        template = component.get("value_template", "")
        keys = {part.split(" ")[0].split("}")[0] for part in template.split("value_json.")[1:]}
        of = agent if component.get("state_topic") == "sightline/pi/state" else set(state_of(seen))
        assert keys <= of, template
    assert state_of(seen) == {
        "inferred": True, "cause": None, "label": "fox", "score": 90.0, "count": 1, "counts": {"fox": 1}
    }  # fmt: skip
    assert state_of(away)["inferred"] is False and state_of(away)["cause"] == "unplugged"
