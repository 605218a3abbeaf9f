from agent.prosody_policy import POLICIES, Patient
from models.prosody import PROSODY_TOKENS


def test_two_misunderstandings_in_a_row() -> None:
    """Then the next reply is calm, for as long as they go on; a reply that understood ends that."""
    policy = Patient()
    calm = []
    for text in ("Sorry, what?", "Okay, a latte.", "Sorry.", "sorry, I can only help with coffee.", "Pardon?", "Okay."):
        calm.append(bool(policy.begin()))
        policy.replied(text)
    assert calm == [False, False, False, False, True, True]
    assert policy.begin() == ()


def test_asking_changes_nothing() -> None:
    """The beginning of a reply may be asked for twice."""
    policy = Patient()
    policy.replied("Sorry.")
    policy.replied("Sorry.")
    assert policy.begin() == policy.begin() == Patient.TOKENS


def test_policies_know_their_tokens() -> None:
    """A shipped policy adds tokens that exist."""
    for make in POLICIES.values():
        policy = make()
        for _ in range(4):
            assert set(policy.begin()) <= set(PROSODY_TOKENS)
            policy.replied("Sorry.")
