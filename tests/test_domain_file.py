"""Actions in the domain file: what the agent does must be readable from what it says."""

from pathlib import Path

import pytest

from agent.domain.domain_file import read_domain_file
from agent.domain.source_map import DomainError

COFFEE = Path(__file__).resolve().parent.parent / "configs" / "domains" / "coffee.yaml"
CANCEL_RULE = "  - {intent: cancel, do: clear, reply: canceled, action: cancel_order}"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("action: cancel_order}", "action: cancel}", "unknown action 'cancel'"),
        (
            "cancel_order: {description: Empty the order., arguments: []}",
            "cancel_order: {description: Empty the order., arguments: [items]}",
            "actions.cancel_order.arguments: 'do: clear' has the arguments: none",
        ),
        ("arguments: [index, item]}", "arguments: [item]}", "'do: change' has the arguments: index, item"),
        (CANCEL_RULE, CANCEL_RULE.replace("canceled", "thanks"), "does not do the same"),
        ('  order: "Okay, {items}.', '  order: "Okay.', "does not hold {items}"),
        ('  changed: "Okay, now {changed}.', '  changed: "Okay, now.', "does not hold {changed}"),
        ("which drink would", "which {drink} would", "item.not_heard: must be words, without a fill"),
        ("<pause_short> which", "<pause> which", "item.not_heard: "),
        (
            '"what<pitch_rising>? Sorry,<pause_short> which drink would you like<pitch_rising>?"',
            "<pause_short>",
            "must be",
        ),
    ],
)
def test_actions_that_could_not_be_read(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """The error names the line and the reason."""
    text = COFFEE.read_text()
    assert old in text
    path = tmp_path / "domain.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DomainError, match=r"domain\.yaml:\d+: ") as caught:
        read_domain_file(path)
    assert reason in str(caught.value)
