"""No more bytes a second than the setting says, over any longer time; and what was received survives."""

from raftlog.snapshots.incoming import NOTHING, About, Incoming
from raftlog.snapshots.rate import RateLimit


def test_bytes_are_held_back_to_the_rate_and_idle_time_is_not_saved_up():
    limit = RateLimit(1000, 0.0)
    assert limit.delay(125, 0.0) == 0.125
    assert limit.delay(375, 0.0) == 0.5
    assert limit.delay(500, 0.5) == 0.5
    assert limit.delay(50, 64.0) == 0.0
    assert 0.9 < limit.delay(1000, 64.0) <= 1.0


def test_a_file_goes_on_for_the_same_image_and_begins_anew_for_another(tmp_path):
    incoming = Incoming(tmp_path / "incoming")
    incoming.load()
    assert incoming.about == NOTHING
    about = About("7-abc", 7, 100)
    incoming.begin(about)
    incoming.append(b"x" * 40)
    again = Incoming(tmp_path / "incoming")
    again.load()
    again.begin(about)
    assert again.received == 40
    again.begin(About("8-abc", 8, 100))
    assert again.received == 0
