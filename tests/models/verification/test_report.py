"""Reports of a made-up verification whose words try to be markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from soundmill.models.stamp import stamp
from soundmill.models.verification.end_to_end import Hearing, Outcome, Sound
from soundmill.models.verification.figures import Figures
from soundmill.models.verification.limits import GENERAL
from soundmill.models.verification.ports import Material, Text
from soundmill.models.verification.report import html, markdown, write_report
from soundmill.models.verification.seats import Seat
from soundmill.models.verification.table import component_rows, headline, limit_rows, trial_rows
from soundmill.models.verification.verdicts import Line
from soundmill.models.verification.verification import Order, Side, Verification

HOSTILE = "<script>alert(1)</script> | `x` *y*"
FIGURES = Figures(
    size=9, relative_error=2e-6, cosine=0.9999999, max_error=1e-3, mean_error=1e-4, agreement=1.0, choices=4
)
SOUND = Sound(
    sample_rate=24000, channels=1, samples=24000, duration_s=1.0, unusable=0, peak=0.5, level_dbfs=-20.0,
    clipped=0.0,
)  # fmt: skip


def line(component: str, tensor: str, verdict: str = "pass", **more: object) -> Line:
    fields: dict[str, object] = {
        "component": component, "tensor": tensor, "dtype": "fp32", "verdict": verdict, "worst": FIGURES,
        "cases": {"short": FIGURES}, "limits": GENERAL["fp32"], "seconds": 0.5, "reference_seconds": 0.25,
    }  # fmt: skip
    return Line(**fields | more)  # type: ignore[arg-type]


@pytest.fixture
def verification(tmp_path: Path) -> Verification:
    text = Text(words=HOSTILE, language="eng")
    order = Order(
        model="csm-1b",
        folder=tmp_path,
        reference=Seat(card="cpu:0", threads=1),
        examined=[Seat(card="npu:0")],
        material=Material(texts={"given": text}, audio=tmp_path / "given.wav"),
    )
    made = Outcome(trial="given", card="npu:0", seconds=1.0, sound=SOUND)
    side = Side(
        seat=order.examined[0],
        dtype="bf16",
        stamp=stamp(card="npu:0"),
        lines=[
            line("backbone", "embedding"),
            line("backbone", "layer 0", "fail", reasons=(HOSTILE,)),
            line("backbone", "layer 1", "fail", reasons=("more",)),
            line("codec", "audio"),
            line("free run", "codes", "reported", worst=replace(FIGURES, first_divergence=3), cases={"short": replace(FIGURES, first_divergence=3)}, limits=()),
        ],
        hearings=[
            Hearing(
                trial="given", verdict="fail", reasons=("it is silent (peak 0)",),
                examined=replace(made, sound=replace(SOUND, peak=0.0, level_dbfs=None)), reference=made,
            )
        ],
    )  # fmt: skip
    reference = Side(seat=order.reference, dtype="fp32", stamp=stamp(card="cpu:0"))
    return Verification(order=order, reference=reference, sides=[side])


def test_a_component_has_one_row_that_names_its_first_failed_tensor(verification: Verification) -> None:
    rows = component_rows(verification.sides[0])
    assert [(row[0], row[2], row[-1]) for row in rows] == [
        ("backbone", "fail", f"layer 0: {HOSTILE}; and 1 more of 3 tensors"),
        ("codec", "pass", ""),
        ("free run", "reported", "parts at step 3"),
    ]
    assert rows[1][3:-1] == (
        "2.00e-06", "0.9999999", "1.0e-03", "1.0e-04", "", "", "100.0%", "0.500 / 0.250",
    )  # fmt: skip


def test_a_trial_shows_both_sides_where_they_differ(verification: Verification) -> None:
    [row] = trial_rows(verification.sides[0])
    assert row[:5] == ("given", "fail", "1.00 s, 24000 Hz, 1 ch", "- / -20.0 dBFS", "0.0%")


def test_limits_are_told_with_their_sources(verification: Verification) -> None:
    rows = limit_rows(verification)
    assert [row[:2] for row in rows] == [("fp32", "published"), ("fp32", "rounding")]
    assert rows[0][2:5] == ("< 1.00%", "> 0.9999", "≥ 97%")
    assert all(row[-1] for row in rows)


def test_what_failed_is_told_in_the_order_of_work(verification: Verification) -> None:
    assert not verification.ok
    assert verification.sides[0].failed == [
        f"backbone: layer 0 in fp32: {HOSTILE}",
        "backbone: layer 1 in fp32: more",
        "end to end, given: it is silent (peak 0)",
    ]
    assert headline(verification) == "csm-1b on npu:0 against cpu:0 (1 thread): FAILED"


class Page(HTMLParser):
    """The elements of a page, their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes |= dict(attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_whole_and_fetches_and_runs_nothing(verification: Verification) -> None:
    page = Page(html(verification))
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.seen)
    assert not {"src", "href", "onclick"} & set(page.attributes)
    words = "".join(page.words)
    assert words.count(HOSTILE) >= 3, "a reason, its tensor and the text itself"
    assert "FAILED" in words
    assert page.seen.count("table") == 5


def test_markdown_keeps_its_tables_whatever_a_cell_says(verification: Verification) -> None:
    text = markdown(verification)
    tables = [row for row in text.splitlines() if row.startswith("|")]
    unescaped = [row.replace("\\|", "") for row in tables]
    counts = {row.count("|") for row in unescaped if row.startswith("| backbone")}
    assert counts == {13}
    assert "<script>" not in text
    assert "\\<script\\>" in text


@pytest.mark.parametrize(("name", "begin"), [("r.html", "<!doctype html>"), ("r.MD", "# csm-1b on npu:0")])
def test_a_report_is_written_whole_in_the_form_of_its_name(
    verification: Verification, tmp_path: Path, name: str, begin: str
) -> None:
    write_report(verification, tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(begin)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_json_says_everything_once(verification: Verification) -> None:
    told = verification.as_json()
    assert told["ok"] is False
    assert told["texts"] == {"given": {"words": HOSTILE, "language": "eng"}}
    [device] = told["devices"]
    assert (device["card"], device["dtype"], device["ok"]) == ("npu:0", "bf16", False)
    assert [part["tensor"] for part in device["components"]][:2] == ["embedding", "layer 0"]
    assert device["components"][0]["limits"][0]["source"]
    assert device["stamp"]["soundmill"]
    assert device["end_to_end"][0]["reference"]["sound"]["peak"] == 0.5
    assert told["reference"].keys() == {"card", "threads", "dtype", "failure", "stamp"}


def test_a_side_of_which_nothing_is_known_has_not_passed() -> None:
    assert not Side(seat=Seat(card="cpu")).ok
