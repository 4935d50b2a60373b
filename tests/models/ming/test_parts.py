from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundmill.models.ming.normalizer import normalized
from soundmill.models.ming.parts import join, split_text, spoken_s


def test_a_short_text_stays_whole() -> None:
    assert split_text(" 你好。Hello there! ", 20) == ["你好。Hello there!"]


def test_sentences_are_packed_and_never_cut_at_a_decimal_point() -> None:
    text = "Version 1.5 is out. It is good! 我们去公园吧。好不好？" * 3

    parts = split_text(text, 6)

    assert len(parts) > 2
    assert all(part[-1] in ".!。？" for part in parts)
    assert not any(part.endswith("1.") for part in parts)


@pytest.mark.parametrize("text", ["我们，" * 60, "many words " * 60, "x" * 900, "长" * 200, "，" * 300])
def test_what_has_no_end_of_a_sentence_is_cut_at_what_it_has(text: str) -> None:
    parts = split_text(text, 5)

    assert len(parts) > 1
    assert all(spoken_s(part) <= 5 for part in parts)


@given(st.text(alphabet='ab ，。.!？\n好,"」9', max_size=300), st.floats(5, 40))
def test_splitting_loses_white_space_only(text: str, limit_s: float) -> None:
    parts = split_text(text, limit_s)

    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part and spoken_s(part) <= limit_s for part in parts)
    for before, after in itertools.pairwise(parts):
        assert spoken_s(before) + spoken_s(after) > 0


def test_parts_are_joined_with_a_pause_and_fades_of_five_milliseconds() -> None:
    parts = [np.ones(1000, np.float32), np.ones(3, np.float32), np.ones(500, np.float32)]

    whole, spans = join(parts, pause_s=0.1, sample_rate=1000)

    assert spans == [(0, 1000), (1100, 1103), (1203, 1703)]
    assert len(whole) == 1703
    assert (whole[:995] == 1).all()
    assert (np.diff(whole[994:1000]) < 0).all()
    assert (whole[1000:1100] == 0).all()
    np.testing.assert_allclose(whole[1203:1209], [0, 0.2, 0.4, 0.6, 0.8, 1])
    assert (whole[1209:] == 1).all()


def test_one_part_is_not_touched() -> None:
    part = np.linspace(-1, 1, 100, dtype=np.float32)

    whole, spans = join([part], pause_s=1, sample_rate=1000)

    np.testing.assert_array_equal(whole, part)
    assert spans == [(0, 100)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2024年5月6日", "二零二四年五月六日"),
        ("2024-05-16 12:05", "二零二四年五月十六日 十二点零五分"),
        ("8:00开会", "八点开会"),
        ("价格¥1,234.5，涨了3.5%。", "价格一千二百三十四点五元，涨了百分之三点五。"),
        ("$20", "二十美元"),
        ("气温-5℃到12°C", "气温零下五摄氏度到十二摄氏度"),
        ("京A12345", "京A一二三四五"),
        ("有3/4的人", "有四分之三的人"),
        ("电话13812345678", "电话幺三八幺二三四五六七八"),
        ("3-5天", "三到五天"),
        ("-3度", "负三度"),
        ("10010", "一万零一十"),
        ("100000001个", "一亿零一个"),
        ("1005000", "一百万零五千"),
        ("101", "一百零一"),
        ("12", "十二"),
        ("0", "零"),
        ("2个人，22个人", "两个人，二十二个人"),
        ("编号00123", "编号零零一二三"),
        ("圆周率3.14", "圆周率三点一四"),
        ("Hello,  world!《书》", "Hello， world！书"),
        ("真的？！……好", "真的？好"),
    ],
)
def test_numbers_are_spelled_out_and_other_marks_removed(text: str, said: str) -> None:
    assert normalized(text) == said


@given(st.text(max_size=60))
def test_normalisation_leaves_letters_spaces_and_four_marks_and_no_digits(text: str) -> None:
    assert not any(character.isdecimal() and character.isascii() for character in normalized(text))
