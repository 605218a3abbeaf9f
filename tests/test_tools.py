"""The actions of a domain as function tools."""

import random
from pathlib import Path
from typing import Any

from agent.domain.tools import function_tools
from training.domain import load_domain

COFFEE = Path(__file__).resolve().parent.parent / "configs" / "domains" / "coffee.yaml"


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema, as far as ours go."""
    match schema["type"]:
        case "integer":
            return isinstance(value, int) and value >= schema["minimum"]
        case "string":
            return value in schema["enum"]
        case "array":
            return len(value) >= schema["minItems"] and all(fits(item, schema["items"]) for item in value)
        case _:
            known = schema["properties"]
            inside = value.keys() <= known.keys() and value.keys() >= set(schema["required"])
            return inside and all(fits(inner, known[key]) for key, inner in value.items())


def test_every_action_fits_its_tool() -> None:
    """Whatever the policy does is a call that the tool's parameters allow, amounts included; other values are not."""
    domain, rng = load_domain(COFFEE), random.Random(3)
    tools = {tool["name"]: tool for tool in function_tools(domain.spec)}
    assert list(tools) == list(domain.spec.actions)
    seen = set()
    for _ in range(300):
        for turn in domain.sample_dialogue(rng):
            for action in turn.actions:
                assert fits(action["arguments"], tools[action["name"]]["parameters"]), action
                seen.add(action["name"])
    assert seen == set(tools)
    order = tools["add_items"]["parameters"]
    assert fits({"items": [{"coffeeDrink": "latte", "milkAmount": "lots of soy milk"}]}, order)
    assert not fits({"items": [{"milkAmount": "soy milk"}]}, order)
    assert not fits({"items": [{"coffeeDrink": "tea"}]}, order)
    assert not fits({"items": []}, order)


def test_tools_say_what_they_are() -> None:
    """Type, name and description as the protocol has them."""
    tools = function_tools(load_domain(COFFEE).spec)
    assert tools[3] == {
        "type": "function",
        "name": "cancel_order",
        "description": "Empty the order.",
        "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    }
