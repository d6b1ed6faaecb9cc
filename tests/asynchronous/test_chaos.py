"""Server and workers are killed again and again while calls come in: none is lost, none answered wrongly or twice."""

from __future__ import annotations

from tests.asynchronous.chaos import RESULT, run


def test_whatever_is_killed_each_accepted_call_has_one_right_outcome(tmp_path, handler):
    report = run(tmp_path, handler(RESULT), kills=6, pause=0.7, least=100)
    assert report.server_kills == 3
    assert report.lost == []
    assert report.wrong == []
    assert report.other == {}
    assert report.completed == report.objects >= report.accepted >= 100
    assert report.leftovers == 0
