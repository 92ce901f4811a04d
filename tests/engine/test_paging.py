"""A page never outgrows what a gRPC client takes, and paging still shows everything once."""

from challenge_engine.event_log import EventFilter
from challenge_engine.paging import MAX_PAGE_BYTES, fitting, size_of_labels
from challenge_engine.reading import ChallengeFilter
from tests.engine.harness import RunningEngine, make_terms

LARGE = tuple((f"{number:02}", "😀" * 255) for number in range(32))


def test_one_item_fits_however_large_and_none_when_there_is_none():
    huge = make_terms(labels=(("a", "x" * (MAX_PAGE_BYTES + 1)),))
    assert fitting([huge, huge], size_of_labels) == 1
    assert fitting([], size_of_labels) == 0


async def test_lists_of_challenges_with_large_labels_come_in_shorter_pages(engine: RunningEngine):
    made = [make_terms(labels=LARGE) for _ in range(70)]
    for terms in made:
        await engine.trading.create_challenge(terms)
    await engine.positions.assign_all()

    seen, sizes, token = [], [], None
    while token != "":
        views, token = await engine.reader.list_challenges(ChallengeFilter(), limit=1000, page_token=token or "")
        seen += [view.state.terms.challenge_id for view in views]
        sizes.append(len(views))
    assert sorted(seen) == sorted(terms.challenge_id for terms in made)
    assert len(sizes) > 1

    positions, token = [], None
    while token != "":
        page, token = await engine.log.page(EventFilter(), after=0, limit=1000, page_token=token or "")
        positions += [positioned.position for positioned in page.events]
    assert positions == list(range(1, 71))
