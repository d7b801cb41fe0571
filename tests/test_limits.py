"""Bounds that environment variables lift."""

import pytest

from omnitok.errors import MediaError, OmnitokError
from omnitok.limits import Limit

PAGES = Limit("OMNITOK_MAX_PAGES", 100)


def test_the_sentence_says_what_and_which_variable_lifts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    PAGES.check(100, "a.pdf: a document of 100 pages")
    PAGES.check(300, "a.pdf: a document of 300 pages", times=3)
    with pytest.raises(MediaError, match=r"^a\.pdf: a document of 101 pages is above the bound of 100; .*_MAX_PAGES"):
        PAGES.check(101, "a.pdf: a document of 101 pages", MediaError)
    monkeypatch.setenv("OMNITOK_MAX_PAGES", "101")
    PAGES.check(101, "a.pdf: a document of 101 pages")


@pytest.mark.parametrize("value", ["many", "-1", "1e9", "9" * 5000])
def test_a_variable_without_a_number_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OMNITOK_MAX_PAGES", value)
    with pytest.raises(OmnitokError, match="OMNITOK_MAX_PAGES must be a whole number"):
        PAGES.check(1, "a.pdf: a document of 1 page")
