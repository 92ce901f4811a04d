"""The one mapping between the SDK's enumerations and the numbers of the contract."""

from typing import Generic, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from challenge_client.enums import ChallengeStatus, EventType, OpenEnum, Rule
from propfirm.challenge.v1 import challenge_pb2 as pb

_MemberT = TypeVar("_MemberT", bound=OpenEnum)


class Numbering(Generic[_MemberT]):
    """Members of one enumeration and their numbers; a member's name in the contract is its value after a prefix."""

    def __init__(self, kind: type[_MemberT], contract: EnumTypeWrapper, prefix: str) -> None:
        self._kind = kind
        self._numbers = {member: int(contract.Value(prefix + member.value)) for member in kind}
        self._members = {number: member for member, number in self._numbers.items()}

    def member(self, number: int) -> _MemberT:
        """The member of a number; one that keeps the number when it is unknown here."""
        return self._members.get(number) or self._kind.unknown(number)

    def optional_member(self, number: int) -> _MemberT | None:
        """The same, None for UNSPECIFIED."""
        return self.member(number) if number else None

    def number(self, member: _MemberT) -> int:
        """The number of a member."""
        unknown = member.unknown_number
        return self._numbers[member] if unknown is None else unknown


STATUSES = Numbering(ChallengeStatus, pb.ChallengeStatus, "CHALLENGE_STATUS_")
RULES = Numbering(Rule, pb.Rule, "RULE_")
EVENT_TYPES = Numbering(EventType, pb.EventType, "EVENT_TYPE_")
