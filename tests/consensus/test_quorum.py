import pytest

from raftlog.consensus.configuration import Configuration
from raftlog.consensus.quorum import VoteResult, majority_of, majority_value, unanimous_result, vote_result


def configuration(voters, outgoing=()):
    return Configuration("", {}, tuple(voters), tuple(outgoing))


@pytest.mark.parametrize(("count", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(count, majority):
    assert majority_of(count) == majority


@pytest.mark.parametrize(
    ("voters", "outgoing", "values", "expected"),
    [
        ("", "", {}, 0),
        ("a", "", {"a": 5}, 5),
        ("ab", "", {"a": 5, "b": 3}, 3),
        ("abc", "", {"a": 5, "b": 3, "c": 1}, 3),
        ("abc", "", {"a": 5}, 0),
        ("abcd", "", {"a": 9, "b": 7, "c": 5, "d": 3}, 5),
        ("abcde", "", {"a": 9, "b": 7, "c": 5, "d": 3, "e": 1}, 5),
        ("abc", "", {"a": 5, "b": 3, "c": 1, "learner": 9}, 3),
        ("abc", "ade", {"a": 9, "b": 9, "c": 9, "d": 4, "e": 2}, 4),
        ("abc", "ade", {"a": 9, "b": 1, "c": 1, "d": 9, "e": 9}, 1),
    ],
)
def test_the_majority_value_is_what_each_part_has_reached(voters, outgoing, values, expected):
    assert majority_value(configuration(voters, outgoing), values, 0) == expected


@pytest.mark.parametrize(
    ("voters", "outgoing", "granted", "refused", "expected"),
    [
        ("", "", "", "", VoteResult.LOST),
        ("a", "", "a", "", VoteResult.WON),
        ("abc", "", "a", "", VoteResult.PENDING),
        ("abc", "", "ab", "", VoteResult.WON),
        ("abc", "", "ab", "c", VoteResult.WON),
        ("abc", "", "a", "bc", VoteResult.LOST),
        ("abcd", "", "ab", "c", VoteResult.PENDING),
        ("abcd", "", "ab", "cd", VoteResult.LOST),
        ("abc", "", "axyz", "", VoteResult.PENDING),
        ("abc", "ade", "abc", "", VoteResult.PENDING),
        ("abc", "ade", "abd", "", VoteResult.WON),
        ("abc", "ade", "abc", "de", VoteResult.LOST),
    ],
)
def test_an_election_needs_a_majority_of_each_part(voters, outgoing, granted, refused, expected):
    votes = dict.fromkeys(granted, True) | dict.fromkeys(refused, False)
    assert vote_result(configuration(voters, outgoing), votes) is expected


@pytest.mark.parametrize(
    ("granted", "refused", "expected"),
    [
        ("ab", "", VoteResult.PENDING),
        ("abc", "", VoteResult.WON),
        ("ab", "c", VoteResult.LOST),
        ("", "a", VoteResult.LOST),
    ],
)
def test_the_first_election_needs_every_member(granted, refused, expected):
    votes = dict.fromkeys(granted, True) | dict.fromkeys(refused, False)
    assert unanimous_result(configuration("abc"), votes) is expected
