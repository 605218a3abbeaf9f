"""Home Assistant's MQTT discovery: one retained message that describes the agent as a device. Pure.

The message goes to ``PREFIX/device/CLIENT_ID/config`` (device discovery, Home Assistant 2024.12 and later).
"""

import json
from typing import Any

Json = dict[str, Any]

_MAX_STATE = 255  # characters of a state in Home Assistant


def discovery(prefix: str, client_id: str, base: str, version: str, transcripts: bool) -> tuple[str, str]:
    """The discovery message.

    Args:
        prefix: Home Assistant's discovery prefix, usually ``homeassistant``.
        client_id: who the agent is; its entities' unique ids begin with it.
        base: what the agent's topics begin with.
        version: the agent's.
        transcripts: whether transcripts are published.

    Returns:
        Topic and payload.
    """
    parts = _sensors(base) | _buttons(base) | _settings(base)
    if transcripts:
        parts["transcript"] = _transcript(base)
    components = {name: {"unique_id": f"{client_id}_{name}", **part} for name, part in parts.items()}
    if not transcripts:
        components["transcript"] = {"platform": "sensor"}  # takes away one that was there before
    body = {
        "device": {
            "identifiers": [client_id],
            "name": "Repartee" if client_id == "repartee" else f"Repartee {client_id}",
            "manufacturer": "Repartee",
            "model": "Voice agent",
            "sw_version": version,
        },
        "origin": {"name": "Repartee", "sw_version": version},
        "availability_topic": f"{base}/availability",
        "qos": 1,
        "components": components,
    }
    return f"{prefix}/device/{client_id}/config", json.dumps(body)


def _sensors(base: str) -> dict[str, Json]:
    return {
        "state": {
            "platform": "sensor",
            "name": "State",
            "device_class": "enum",
            "options": ["idle", "listening", "thinking", "speaking"],
            "icon": "mdi:account-voice",
            "state_topic": f"{base}/state",
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": f"{base}/state",
        },
        "latency": {
            "platform": "sensor",
            "name": "Latency",
            "device_class": "duration",
            "unit_of_measurement": "ms",
            "state_class": "measurement",
            "suggested_display_precision": 0,
            "state_topic": f"{base}/metrics",
            "value_template": "{{ value_json.speech_end_to_audio_ms }}",
            "json_attributes_topic": f"{base}/metrics",
        },
        "order": {
            "platform": "sensor",
            "name": "Last order",
            "icon": "mdi:receipt-text",
            "force_update": True,
            "state_topic": f"{base}/action",
            "value_template": "{{ value_json.name }}",
            "json_attributes_topic": f"{base}/action",
        },
    }


def _transcript(base: str) -> Json:
    return {
        "platform": "sensor",
        "name": "Last transcript",
        "icon": "mdi:message-text",
        "force_update": True,
        "state_topic": f"{base}/transcript",
        "value_template": f"{{{{ value_json.text[:{_MAX_STATE}] }}}}",
        "json_attributes_topic": f"{base}/transcript",
    }


def _buttons(base: str) -> dict[str, Json]:
    return {
        "interrupt": {
            "platform": "button",
            "name": "Interrupt",
            "icon": "mdi:hand-back-right",
            "command_topic": f"{base}/command/interrupt",
            "payload_press": "{}",
        },
        "mute": {
            "platform": "switch",
            "name": "Mute",
            "icon": "mdi:microphone-off",
            "command_topic": f"{base}/command/mute",
            "payload_on": '{"on": true}',
            "payload_off": '{"on": false}',
            "state_topic": f"{base}/options",
            "value_template": "{{ 'on' if value_json.muted else 'off' }}",
            "state_on": "on",
            "state_off": "off",
        },
        "say": {
            "platform": "text",
            "name": "Say",
            "icon": "mdi:bullhorn",
            "min": 1,
            "max": _MAX_STATE,
            "command_topic": f"{base}/command/say",
            "command_template": '{"text": {{ value | tojson }} }',
        },
    }


def _settings(base: str) -> dict[str, Json]:
    return {
        "volume": {
            "platform": "number",
            "name": "Volume",
            "icon": "mdi:volume-high",
            "min": 0,
            "max": 1,
            "step": 0.05,
            "command_topic": f"{base}/command/set",
            "command_template": '{"volume": {{ value }} }',
            "state_topic": f"{base}/options",
            "value_template": "{{ value_json.volume }}",
        },
        "eagerness": {
            "platform": "select",
            "name": "Eagerness",
            "icon": "mdi:run-fast",
            "options": ["auto", "low", "medium", "high"],
            "command_topic": f"{base}/command/set",
            "command_template": '{"eagerness": "{{ value }}" }',
            "state_topic": f"{base}/options",
            "value_template": "{{ value_json.eagerness }}",
        },
    }
