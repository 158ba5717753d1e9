"""Whatever stands in RAFTLOG, reading it ends with settings or with problems that name their key."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftlog import conf

KEYS = sorted({option.key for option in conf.SIMPLE_OPTIONS} | {"NODE_ID", "ADDRESS", "BIND", "MEMBERS", "DATA_DIR"})
KEYS += ["SECRET_KEYS", "TLS_CERTIFICATE", "TLS_KEY", "TLS_CA", "NODEID", "", "a\x00b"]
ADDRESSES = ["ws://a:1", "wss://[::1]:70000", "ws://", "http://x:1", "a:b:c", "ws://h:0", "/", "\x00", "é" * 300]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(ADDRESSES),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.binary(max_size=20), st.just(object())
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.tuples(TEXTS, st.integers()),
    st.dictionaries(st.one_of(TEXTS, st.integers()), SCALARS, max_size=3),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5), SCALARS, st.lists(SCALARS, max_size=2)))
@example({"ADDRESS": None, "BIND": None, "MEMBERS": {0: None}})
@example({"MEMBERS": {"a": [], "b": []}})
@example({"TLS_CA": "é" * 300})  # longer than a file's name may be
def test_any_settings_give_settings_or_named_problems(raw):
    problems = conf.find_problems(raw)
    for problem in problems:
        assert problem.message
        assert problem.hint
        assert problem.key == "" or repr(problem.key)[1:-1] in problem.message, problem
    if not problems:
        read = conf.load_settings(raw)
        assert read.node_id in read.members
        assert read.heartbeat_interval <= read.election_timeout / 3


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_any_address_is_parsed_or_refused_with_a_reason(text):
    try:
        scheme, host, port = conf.parse_address(text)
    except ValueError as error:
        reason = str(error)
    else:
        reason = "no reason needed"
        assert scheme in ("ws", "wss")
        assert host
        assert 0 < port < 65536
    assert reason
