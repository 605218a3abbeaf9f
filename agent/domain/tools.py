"""A domain's actions as function tools: what a client is told it may be called with."""

from typing import Any

from agent.domain.domain_file import DomainSpec

Json = dict[str, Any]


def function_tools(spec: DomainSpec) -> list[Json]:
    """One function tool an action, its parameters as JSON schema: every slot's values, with and without amounts."""
    return [
        {
            "type": "function",
            "name": name,
            "description": action.description,
            "parameters": _object({argument: _argument(spec, argument) for argument in action.arguments}),
        }
        for name, action in spec.actions.items()
    ]


def _argument(spec: DomainSpec, name: str) -> Json:
    if name == "index":
        return {"type": "integer", "minimum": 0, "description": "Place in the order, 0 for the first."}
    slots = {
        slot: {"type": "string", "enum": [*values.values, *(f"{a} {v}" for a in values.amounts for v in values.values)]}
        for slot, values in spec.slots.items()
    }
    item = _object(slots) | {"required": [spec.item.head]}
    return {"type": "array", "minItems": 1, "items": item} if name == "items" else item


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
