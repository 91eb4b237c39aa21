"""Home Assistant's MQTT device discovery: it shows an agent without a line of YAML.

One retained message on `homeassistant/device/<id>/config`, see https://www.home-assistant.io/integrations/mqtt/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.results.zones import COUNTS, Zone
from sightline import __version__
from sightline.predictions import ModelId

STATUS = "homeassistant/status"  # Home Assistant publishes `online` here when it has started: announce again


def discovery_topic(device: str) -> str:
    return f"homeassistant/device/sightline_{device}/config"


def discovery(
    device: str, base: str, cameras: Mapping[str, str], model: ModelId, zones: Sequence[Zone] = ()
) -> dict[str, Any]:
    """The document that describes an agent and its cameras.

    device: a slug that stays the same.
    base: the beginning of each topic.
    cameras: their names, and what stands for them in topics.
    zones: zones and lines, whose counts are part of their cameras' states.
    """
    components = _Components(device, base)
    for camera, part in cameras.items():
        _add_camera(components, part, f"{camera} " if len(cameras) > 1 else "")
        for zone in zones:
            if zone.camera in ("", camera):
                _add_zone(components, part, f"{camera} " if len(cameras) > 1 else "", zone)
    _add_agent(components)
    about = {"ids": [f"sightline_{device}"], "name": f"Sightline {device}", "mf": "Sightline", "mdl": model.name,
             "sw": f"{model.version} ({model.sha256[:12]})"}  # fmt: skip
    return {
        "dev": about,
        "o": {"name": "sightline", "sw": __version__},
        "cmps": components.documents,
        "qos": 1,
    }


class _Components:
    """The components of a device, by key."""

    def __init__(self, device: str, base: str) -> None:
        self.device, self.base = device, base
        self.documents: dict[str, dict[str, Any]] = {}
        # in each component, not once for the device: Home Assistant refuses a component that would then have it twice
        self.alive = {"topic": f"{base}/available"}

    def add(self, key: str, platform: str, name: str, **more: Any) -> None:
        unique_id = f"sightline_{self.device}_{key}"
        document = {"p": platform, "name": name, "unique_id": unique_id, "availability": [self.alive], **more}
        self.documents[key] = document


def _add_camera(components: _Components, part: str, prefix: str) -> None:
    """prefix: of each name; '' where the agent has one camera."""
    state = f"{components.base}/{part}/state"

    def add(kind: str, platform: str, name: str, template: str, **more: Any) -> None:
        components.add(
            f"{part}_{kind}", platform, f"{prefix}{name}".capitalize(),
            state_topic=state, value_template=template, **more,
        )  # fmt: skip

    # a camera without inference must not look like an empty scene
    inferred = {
        "availability": [
            components.alive,
            {"topic": state, "value_template": "{{ 'online' if value_json.inferred else 'offline' }}"},
        ],
        "availability_mode": "all",
    }
    components.add(f"{part}_image", "camera", f"{prefix}image".capitalize(), topic=f"{components.base}/{part}/image")
    add("label", "sensor", "label", "{{ value_json.label }}", **inferred)
    add("score", "sensor", "score", "{{ value_json.score }}", **inferred,
        unit_of_measurement="%", state_class="measurement", suggested_display_precision=0)  # fmt: skip
    add("count", "sensor", "count", "{{ value_json.count }}", **inferred,
        state_class="measurement", json_attributes_topic=state,
        json_attributes_template="{{ value_json.counts | tojson }}")  # fmt: skip
    add("occupancy", "binary_sensor", "occupancy", "{{ 'ON' if value_json.count else 'OFF' }}", **inferred,
        device_class="occupancy")  # fmt: skip
    add("problem", "binary_sensor", "camera", "{{ 'OFF' if value_json.inferred else 'ON' }}", device_class="problem",
        entity_category="diagnostic", json_attributes_topic=state,
        json_attributes_template="{{ {'cause': value_json.cause} | tojson }}")  # fmt: skip


def _add_zone(components: _Components, part: str, prefix: str, zone: Zone) -> None:
    for count in COUNTS[zone.kind]:
        components.add(
            f"{part}_{zone.kind}_{zone.name}_{count}",
            "sensor",
            f"{prefix}{zone.name} {count}".capitalize(),
            state_topic=f"{components.base}/{part}/state",
            value_template=f"{{{{ value_json.zones['{zone.name}']['{count}'] }}}}",
            state_class="measurement" if zone.kind == "zone" else "total_increasing",
        )


def _add_agent(components: _Components) -> None:
    state = f"{components.base}/state"

    def add(key: str, name: str, template: str, **more: Any) -> None:
        components.add(
            key, "sensor", name, state_topic=state, value_template=template, entity_category="diagnostic", **more
        )

    add("fps", "Frames per second", "{{ value_json.fps }}", unit_of_measurement="fps", state_class="measurement")
    add("temperature", "Temperature", "{{ value_json.temperature }}", unit_of_measurement="°C",
        device_class="temperature", state_class="measurement")  # fmt: skip
    add("waiting", "Waiting messages", "{{ value_json.waiting }}", state_class="measurement")
    add("model", "Model", "{{ value_json.model }}")
    components.add("threshold", "number", "Threshold", state_topic=state, value_template="{{ value_json.threshold }}",
                   command_topic=f"{components.base}/threshold/set", min=0, max=1, step=0.01, mode="slider",
                   entity_category="config")  # fmt: skip
