"""What Home Assistant has to be told to show an agent without a line of YAML: MQTT device discovery.

One retained message on `homeassistant/device/<id>/config`, as https://www.home-assistant.io/integrations/mqtt/ has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.results.zones import COUNTS, Zone
from sightline import __version__
from sightline.predictions import ModelId

STATUS = "homeassistant/status"  # it says `online` here when it has started, and wants to be told again


def discovery_topic(device: str) -> str:
    return f"homeassistant/device/sightline_{device}/config"


def discovery(
    device: str, base: str, cameras: Mapping[str, str], model: ModelId, places: Sequence[Zone] = ()
) -> dict[str, Any]:
    """device: a slug, the same for ever. base: the topics' beginning. cameras: names, and what stands for them in
    topics. places: zones and lines, whose counts the states of their cameras have."""
    components: dict[str, Any] = {}
    # with each component, not once for the device: Home Assistant refuses a component that would then have it twice
    alive = {"topic": f"{base}/available"}

    def add(key: str, platform: str, name: str, **more: Any) -> None:
        unique_id = f"sightline_{device}_{key}"
        components[key] = {"p": platform, "name": name, "unique_id": unique_id, "availability": [alive], **more}

    for camera, part in cameras.items():
        state = f"{base}/{part}/state"
        called = f"{camera} " if len(cameras) > 1 else ""

        def value(template: str, state: str = state) -> dict[str, str]:
            return {"state_topic": state, "value_template": template}

        # a camera that is not seen must not look like an empty scene
        seen = {
            "availability": [
                alive,
                {"topic": state, "value_template": "{{ 'online' if value_json.seen else 'offline' }}"},
            ],
            "availability_mode": "all",
        }
        add(f"{part}_picture", "camera", f"{called}picture".capitalize(), topic=f"{base}/{part}/picture")
        add(f"{part}_label", "sensor", f"{called}label".capitalize(), **value("{{ value_json.label }}"), **seen)
        add(f"{part}_score", "sensor", f"{called}score".capitalize(), **value("{{ value_json.score }}"), **seen,
            unit_of_measurement="%", state_class="measurement", suggested_display_precision=0)  # fmt: skip
        add(f"{part}_count", "sensor", f"{called}count".capitalize(), **value("{{ value_json.count }}"), **seen,
            state_class="measurement", json_attributes_topic=state,
            json_attributes_template="{{ value_json.counts | tojson }}")  # fmt: skip
        add(f"{part}_occupancy", "binary_sensor", f"{called}occupancy".capitalize(),
            **value("{{ 'ON' if value_json.count else 'OFF' }}"), **seen, device_class="occupancy")  # fmt: skip
        add(f"{part}_problem", "binary_sensor", f"{called}camera".capitalize(), device_class="problem",
            **value("{{ 'OFF' if value_json.seen else 'ON' }}"), entity_category="diagnostic",
            json_attributes_topic=state,
            json_attributes_template="{{ {'cause': value_json.cause} | tojson }}")  # fmt: skip
        for place in places:
            if place.camera not in ("", camera):
                continue
            for count in COUNTS[place.kind]:
                add(f"{part}_{place.kind}_{place.name}_{count}", "sensor", f"{called}{place.name} {count}".capitalize(),
                    **value(f"{{{{ value_json.places['{place.name}']['{count}'] }}}}"),
                    state_class="measurement" if place.kind == "zone" else "total_increasing")  # fmt: skip
    shared = f"{base}/state"

    def of_device(key: str, name: str, template: str, **more: Any) -> None:
        add(key, "sensor", name, state_topic=shared, value_template=template, entity_category="diagnostic", **more)

    of_device("fps", "Frames a second", "{{ value_json.fps }}", unit_of_measurement="fps", state_class="measurement")
    of_device("temperature", "Temperature", "{{ value_json.temperature }}", unit_of_measurement="°C",
              device_class="temperature", state_class="measurement")  # fmt: skip
    of_device("waiting", "Waiting messages", "{{ value_json.waiting }}", state_class="measurement")
    of_device("model", "Model", "{{ value_json.model }}")
    add("threshold", "number", "Threshold", state_topic=shared, value_template="{{ value_json.threshold }}",
        command_topic=f"{base}/threshold/set", min=0, max=1, step=0.01, mode="slider",
        entity_category="config")  # fmt: skip
    about = {"ids": [f"sightline_{device}"], "name": f"Sightline {device}", "mf": "Sightline", "mdl": model.name,
             "sw": f"{model.version} ({model.sha256[:12]})"}  # fmt: skip
    return {
        "dev": about,
        "o": {"name": "sightline", "sw": __version__},
        "cmps": components,
        "qos": 1,
    }
