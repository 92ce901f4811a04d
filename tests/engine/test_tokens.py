"""Opaque tokens: what they carry, and what they are bound to."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenge_engine.tokens import DIGEST_BYTES, MAX_TOKEN_LENGTH, VERSION, seal, unseal, unseal_page
from challenge_rules.errors import ValidationError

SCOPE = [["a"], {"k": "v"}, None, 7]
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8)


@given(payload=st.lists(plain, max_size=4), scope=st.lists(plain, max_size=3))
def test_a_token_gives_back_what_was_sealed_in_it(payload, scope):
    token = seal("kind", scope, payload)
    assert unseal("kind", scope, token) == payload
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def test_the_order_of_a_mapping_in_the_scope_does_not_matter():
    assert unseal("k", {"b": 1, "a": 2}, seal("k", {"a": 2, "b": 1}, [1])) == [1]


@pytest.mark.parametrize(("kind", "scope"), [("other", SCOPE), ("kind", [["a"], {"k": "w"}, None, 7]), ("kind", None)])
def test_a_token_of_another_kind_or_scope_is_refused(kind, scope):
    with pytest.raises(ValueError, match="another list, log or filter"):
        unseal(kind, scope, seal("kind", SCOPE, [1]))


@given(st.data())
def test_a_token_changed_in_any_byte_is_refused(data):
    raw = bytearray(base64.urlsafe_b64decode(pad(seal("kind", SCOPE, [123, "x"]))))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="malformed"):
        unseal("kind", SCOPE, base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(st.text(max_size=60))
def test_any_text_is_refused_as_a_value_error(text):
    with pytest.raises(ValueError, match="malformed"):
        unseal("kind", SCOPE, text)


def test_a_token_that_is_too_long_is_refused_before_it_is_decoded():
    with pytest.raises(ValueError, match="too long"):
        unseal("kind", SCOPE, "A" * (MAX_TOKEN_LENGTH + 1))


def test_the_tokens_of_the_service_are_far_below_the_longest_allowed():
    token = seal("challenges", SCOPE, [-(2**63), "0190b5a8-7c3e-7d2a-9f00-1a2b3c4d5e6f"])
    assert len(token) < MAX_TOKEN_LENGTH // 4


def test_a_token_starts_with_its_version_so_that_a_later_form_can_be_told():
    raw = base64.urlsafe_b64decode(pad(seal("kind", SCOPE, [5])))
    assert raw[:1] == VERSION
    assert json.loads(raw[1 + DIGEST_BYTES :]) == [5]


def test_a_bad_page_token_is_a_violation_of_that_field():
    assert unseal_page("kind", SCOPE, seal("kind", SCOPE, [1])) == [1]
    with pytest.raises(ValidationError) as refused:
        unseal_page("kind", SCOPE, seal("other", SCOPE, [1]))
    assert [violation.field for violation in refused.value.violations] == ["page_token"]


def pad(token: str) -> str:
    return token + "=" * (-len(token) % 4)
