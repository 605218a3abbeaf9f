"""Home Assistant's discovery message, held against the keys its documentation lists for each platform."""

import json
from typing import Any

import pytest

from agent.home_assistant import discovery
from agent.telegrams import parse_command

AVAILABILITY = {"availability_topic", "payload_available", "payload_not_available", "availability_template"}
ENTITY = AVAILABILITY | {
    "platform", "name", "unique_id", "icon", "entity_category", "enabled_by_default", "qos", "encoding",
    "json_attributes_topic", "json_attributes_template",
}  # fmt: skip
KEYS = {
    "sensor": {
        "state_topic", "value_template", "device_class", "options", "unit_of_measurement", "state_class",
        "suggested_display_precision", "force_update", "expire_after",
    },
    "button": {"command_topic", "command_template", "payload_press", "retain", "device_class"},
    "switch": {
        "command_topic", "command_template", "payload_on", "payload_off", "state_topic", "state_on", "state_off",
        "value_template", "retain", "optimistic", "device_class",
    },
    "text": {
        "command_topic", "command_template", "state_topic", "value_template", "min", "max", "mode", "pattern", "retain",
    },
    "number": {
        "command_topic", "command_template", "state_topic", "value_template", "min", "max", "step", "mode", "retain",
        "unit_of_measurement", "device_class",
    },
    "select": {"command_topic", "command_template", "state_topic", "value_template", "options", "retain"},
}  # fmt: skip
REQUIRED = {
    "sensor": {"state_topic"},
    "button": {"command_topic"},
    "switch": {"command_topic"},
    "text": {"command_topic"},
    "number": {"command_topic"},
    "select": {"command_topic", "options"},
}


def device(transcripts: bool = True) -> dict[str, Any]:
    topic, payload = discovery("homeassistant", "counter-1", "shop/counter", "1.2.3", transcripts)
    assert topic == "homeassistant/device/counter-1/config"
    body: dict[str, Any] = json.loads(payload)
    return body


def test_the_device() -> None:
    """Who it is, who says so, and whether it is there."""
    body = device()
    assert body.keys() <= {"device", "origin", "components", "qos", "encoding", "state_topic"} | AVAILABILITY
    assert body["device"]["identifiers"] == ["counter-1"]
    assert body["device"]["sw_version"] == body["origin"]["sw_version"] == "1.2.3"
    assert body["origin"]["name"] == "Repartee"
    assert body["availability_topic"] == "shop/counter/availability"


def test_every_component_has_keys_that_exist() -> None:
    """Nothing a platform does not know, everything it needs, and unique ids."""
    components = device()["components"]
    assert set(components) == {
        "state", "latency", "order", "transcript", "interrupt", "mute", "say", "volume", "eagerness",
    }  # fmt: skip
    for name, part in components.items():
        platform = part["platform"]
        assert part.keys() <= ENTITY | KEYS[platform], name
        assert part.keys() >= REQUIRED[platform] | {"unique_id"}, name
        topics = [value for key, value in part.items() if key.endswith("_topic")]
        assert all(topic.startswith("shop/counter/") for topic in topics), name
    assert len({part["unique_id"] for part in components.values()}) == len(components)


def test_transcripts_only_when_they_are_published() -> None:
    """Without, the component's entry is the one that takes an earlier one away."""
    assert device(transcripts=False)["components"]["transcript"] == {"platform": "sensor"}


@pytest.mark.parametrize(
    ("component", "value"),
    [("say", '"We close", he said'), ("volume", "0.35"), ("eagerness", "high"), ("interrupt", None), ("mute", None)],
)
def test_what_it_sends_are_commands(component: str, value: str | None) -> None:
    """The payloads, with their templates filled in, are commands that the agent reads."""
    part = device()["components"][component]
    name = part["command_topic"].removeprefix("shop/counter/command/")
    if value is None:
        payloads = [part[key] for key in ("payload_press", "payload_on", "payload_off") if key in part]
    else:
        template = part["command_template"]
        filled = template.replace("{{ value | tojson }}", json.dumps(value)).replace("{{ value }}", value)
        assert filled != template
        payloads = [filled]
    for payload in payloads:
        parse_command(name, payload.encode(), retained=False)
