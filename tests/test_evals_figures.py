"""What a run sums up to."""

import pytest

from evals.case import Case
from evals.evidence import Evidence, Refusal, RequestFate
from evals.report import compute_metrics
from evals.runner import Result, Results


def _false_refusals(due, fates, refused=()):
    case = Case.model_validate(
        {
            "id": "A01",
            "title": "t",
            "events": [{"send": "/create a market"}],
            "expect": {"paid": due, "delivered": due, "attempts": due},
        }
    )
    found = Evidence(
        case="A01",
        delivered=sum(video == "DELIVERED" for _, video in fates),
        fates=[
            RequestFate(request=f"tg:{n}", who="ana", state=state, video=video)
            for n, (state, video) in enumerate(fates)
        ],
        refusals=[
            Refusal(request=f"tg:{n}", tool="generate_video", word=word, layer="guard") for n, word in refused
        ],
    )
    return compute_metrics(Results([Result(case, evidence=found)], 1)).false_refusals


@pytest.mark.parametrize("word", ["replay", "malformed"])
def test_a_due_video_whose_only_call_was_refused_is_a_false_refusal(word):
    """A good call that is refused as a replay leaves no refused request: it ends with no order at all."""
    assert _false_refusals(1, [("NO_ORDER", None)], [(0, word)]) == 1
    assert _false_refusals(1, [("REFUSED", None)]) == 1


def test_what_was_not_refused_or_not_due_is_no_false_refusal():
    """No call at all, an order that failed, a replay beside its video, a refusal that was due."""
    assert _false_refusals(1, [("NO_ORDER", None)]) == 0
    assert _false_refusals(1, [("ORDERED", "FAILED_PAID")], [(0, "replay")]) == 0
    assert _false_refusals(1, [("ORDERED", "DELIVERED")], [(0, "replay")]) == 0
    assert _false_refusals(1, [("ORDERED", "FAILED_PAID"), ("REFUSED", None)]) == 0
    assert _false_refusals(0, [("NO_ORDER", None)], [(0, "malformed")]) == 0
