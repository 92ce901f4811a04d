"""Identifiers that the service makes: UUIDs of version 7 (RFC 9562, 5.7)."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from challenge_engine.ids import uuid7

moments = st.integers(0, 253_402_300_799_999_999)


@given(moments)
def test_the_first_48_bits_are_milliseconds_then_version_and_variant(now):
    made = uuid.UUID(uuid7(now))
    assert made.int >> 80 == now // 1000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


@given(moments)
def test_it_is_text_in_lower_case(now):
    text = uuid7(now)
    assert text == text.lower() == str(uuid.UUID(text))


@given(moments, moments)
def test_later_milliseconds_sort_later(one, two):
    if one // 1000 < two // 1000:
        assert uuid7(one) < uuid7(two)


def test_a_moment_of_the_rfc_gives_its_prefix():
    """RFC 9562, A.6: 2022-02-22T19:22:22.00Z is 017F22E279B0."""
    assert uuid7(1_645_557_742_000_000).startswith("017f22e2-79b0-7")


def test_two_of_one_moment_differ_in_their_74_random_bits():
    made = [uuid.UUID(uuid7(0)).int for _ in range(1000)]
    assert len(set(made)) == 1000
    random_bits = (1 << 76) - 1 - (0b11 << 62)
    union, common = 0, random_bits
    for one in made:
        union |= one & random_bits
        common &= one
    assert union == random_bits
    assert common & random_bits == 0


def test_moments_before_1970_give_uuids_too():
    assert uuid.UUID(uuid7(-1)).version == 7
