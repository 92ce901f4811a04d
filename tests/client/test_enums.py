"""The SDK's enumerations are those of the contract, and keep what only a newer server knows."""

import copy
import pickle

import pytest

import challenge_rules
from challenge_client import ChallengeStatus, EventType, Rule, encoding
from challenge_client.numbering import EVENT_TYPES, RULES, STATUSES
from propfirm.challenge.v1 import challenge_pb2 as pb

NUMBERED = [
    (ChallengeStatus, STATUSES, pb.ChallengeStatus, "CHALLENGE_STATUS_"),
    (Rule, RULES, pb.Rule, "RULE_"),
    (EventType, EVENT_TYPES, pb.EventType, "EVENT_TYPE_"),
]


@pytest.mark.parametrize(("kind", "numbering", "contract", "prefix"), NUMBERED)
def test_members_are_those_of_the_contract_and_of_the_rules(kind, numbering, contract, prefix):
    names = [name.removeprefix(prefix) for name in contract.keys()[1:]]
    assert [member.value for member in kind] == names
    assert [member.value for member in getattr(challenge_rules, kind.__name__)] == names
    for member in kind:
        assert numbering.number(member) == contract.Value(prefix + member)
        assert numbering.member(numbering.number(member)) is member


@pytest.mark.parametrize(("kind", "numbering", "contract", "prefix"), NUMBERED)
def test_an_unknown_number_becomes_a_member_that_keeps_it(kind, numbering, contract, prefix):
    unknown = numbering.member(77)
    assert isinstance(unknown, kind)
    assert unknown == unknown.value == unknown.name == "UNKNOWN_77"
    assert numbering.number(unknown) == 77
    assert unknown not in list(kind)


def test_unknown_members_compare_by_value_and_survive_pickle_and_copy():
    unknown = ChallengeStatus.unknown(9)
    for other in (pickle.loads(pickle.dumps(unknown)), copy.deepcopy(unknown), ChallengeStatus("UNKNOWN_9")):
        assert other == unknown
        assert hash(other) == hash(unknown)
        assert other.unknown_number == 9
    assert unknown != ChallengeStatus.unknown(10)


def test_an_unknown_status_can_be_sent_back_as_a_filter():
    request = pb.ListChallengesRequest(statuses=encoding.statuses([ChallengeStatus.unknown(9), "FAILED"], "statuses"))
    assert pb.ListChallengesRequest.FromString(request.SerializeToString()).statuses == [9, 3]


@pytest.mark.parametrize("text", ["failed", "", "UNKNOWN_", "UNKNOWN_07", "UNKNOWN_x", "UNKNOWN_7 "])
def test_other_texts_are_no_members(text):
    with pytest.raises(ValueError):
        ChallengeStatus(text)


def test_zero_means_none_where_the_contract_allows_it():
    assert RULES.optional_member(0) is None
    assert STATUSES.optional_member(0) is None


def test_failed_and_funded_are_terminal():
    assert [s for s in ChallengeStatus if s.is_terminal] == [ChallengeStatus.FAILED, ChallengeStatus.FUNDED]
    assert not ChallengeStatus.unknown(9).is_terminal
