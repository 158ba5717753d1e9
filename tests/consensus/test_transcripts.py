"""Transcripts answer as they are written. REWRITE_TRANSCRIPTS=1 writes what they answer now."""

import os
from pathlib import Path

import pytest

from tests.consensus.transcript import Transcript

FOLDER = Path(__file__).parent / "transcripts"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_a_transcript_answers_as_written(path):
    written = path.read_text()
    answered = Transcript().answer(written)
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text(answered)
    else:
        assert answered == written
