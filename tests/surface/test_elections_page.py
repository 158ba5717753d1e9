"""What nodes remember of elections, as the page shows it."""

import pytest


@pytest.fixture
def page(with_admin):
    from raftlog.admin import elections

    return elections


def event(at, node_id, text):
    return {"at": at, "node_id": node_id, "text": text, "term": 3, "kind": "pre-candidate", "leader_id": ""}


def test_what_a_node_says_again_and_again_is_one_row(page):
    again = "became pre-candidate in term 3: no majority for its pre-vote in time"
    said = [
        (9, "a", again),
        (8, "b", again),
        (7, "a", again),
        (6, "b", again),
        (5, "b", "x"),
        (4, "a", "y"),
        (3, "b", again),
    ]
    events = [event(*each) for each in said]
    found = [(each["node_id"], each["at"], each["times"]) for each in page.without_repeats(events)]
    assert found == [("a", 9, 2), ("b", 8, 2), ("b", 5, 1), ("a", 4, 1), ("b", 3, 1)]
    assert page.without_repeats(events)[1]["since"] == page.moment(6)


def test_without_events_there_are_no_rows(page):
    assert page.without_repeats([]) == []
