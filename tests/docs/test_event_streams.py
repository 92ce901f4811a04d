"""docs/event-streams.md names what is broken on purpose, and the tests that notice."""

from pathlib import Path

from tests.promises import BREAKS, table


def test_its_table_is_what_is_tried(project_root: Path) -> None:
    assert table() in (project_root / "docs/event-streams.md").read_text(encoding="utf-8")


def test_every_break_still_fits_the_code_and_names_a_test_that_is_there(project_root: Path) -> None:
    for each in BREAKS:
        assert (project_root / each.file).read_text(encoding="utf-8").count(each.old) == 1, each.promise
        file, *names = each.test.split("::")
        text = (project_root / file).read_text(encoding="utf-8")
        assert all(name in text for name in names), each.promise
