"""Chinese text as it is said: dates, sums and numbers spelled out, and other marks removed.

The rules run in a fixed order, from the particular to the general, so that a date is not read as a range.
What is left are ideographs, letters of ASCII, spaces and 。！？，
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_DIGITS = "零一二三四五六七八九"
_PLACES = ("", "十", "百", "千")
_MYRIADS = ("", "万", "亿", "万亿")
_LONGEST_NUMBER = 16  # digits; what is longer is read digit by digit
_LONGEST_CARDINAL = 7  # as written without a word of quantity behind it; codes are longer

_MEASURES = "个只位条张次本名台件块把座间辆双杯层天年岁克吨米里斤瓶碗支份颗头口家套部门句篇"
_CURRENCIES = {"¥": "元", "￥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
_MARKS = str.maketrans(
    {
        "!": "！",
        "?": "？",
        ",": "，",
        ";": "，",
        "；": "，",
        ":": "，",
        "：": "，",
        "、": "，",
        ".": "。",
        "…": "。",
    }
)
_FOREIGN = re.compile(r"[^。！？，A-Za-z\s㐀-䶿一-鿿]")
_REPEATED = re.compile(r"([。！？，])[。！？，]+")
_SPACE = re.compile(r"\s+")

_Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def normalized(text: str) -> str:
    """Spell out a text; one without anything that can be said becomes empty."""
    text = unicodedata.normalize("NFKC", text)
    for pattern, said in _RULES:
        text = pattern.sub(said, text)
    text = _FOREIGN.sub("", text.translate(_MARKS))
    return _SPACE.sub(" ", _REPEATED.sub(r"\1", text)).strip()


def digits(number: str) -> str:
    """Digits one by one: `205` is 二零五."""
    return "".join(_DIGITS[int(digit)] for digit in number)


def cardinal(number: str) -> str:
    """A whole number: `205` is 二百零五."""
    number = number.lstrip("0") or "0"
    if len(number) > _LONGEST_NUMBER:
        return digits(number)
    if number == "0":
        return "零"
    groups = [number[max(0, end - 4) : end] for end in range(len(number), 0, -4)]  # the lowest first
    said = ""
    for place in reversed(range(len(groups))):
        value = int(groups[place])
        if value == 0:
            continue
        if said and (value < 1000 or int(groups[place + 1]) % 10 == 0):
            said = said.removesuffix("零") + "零"
        said += _below_myriad(value) + _MYRIADS[place]
    return said.removeprefix("一") if said.startswith("一十") else said


def _below_myriad(value: int) -> str:
    said = ""
    for place in range(3, -1, -1):
        digit = value // 10**place % 10
        if digit:
            said += _DIGITS[digit] + _PLACES[place]
        elif said and value % 10**place:
            said = said.removesuffix("零") + "零"
    return said


def decimal(number: str) -> str:
    """A number that may have a sign and a fraction: `-2.50` is 负二点五零."""
    sign = "负" if number.startswith("-") else ""
    whole, point, fraction = number.lstrip("+-").replace(",", "").partition(".")
    return sign + cardinal(whole) + ("点" + digits(fraction) if point else "")


def _date(found: re.Match[str]) -> str:
    year, month, day = found.groups()
    return f"{digits(year)}年{cardinal(month)}月{cardinal(day)}日"


def _time(found: re.Match[str]) -> str:
    hour, minute, second = found.groups()
    said = f"{cardinal(hour)}点"
    if int(minute) or second:
        said += f"{'零' if int(minute) < 10 else ''}{cardinal(minute) if int(minute) else ''}分"
    return said + (f"{cardinal(second)}秒" if second else "")


def _quantity(found: re.Match[str]) -> str:
    number, measure = found.groups()
    return ("两" if number == "2" else decimal(number)) + measure


def _digit_string(found: re.Match[str]) -> str:
    number = found[0]
    return digits(number) if number.startswith("0") or len(number) > _LONGEST_CARDINAL else cardinal(number)


# Digits are taken from the first of them to the last, and given back none: a text may be 100,000 digits, and is
# not to be looked at from each of them. More groups than that are no number that anybody says.
_RUN = r"(?<!\d)\d++"
_NUMBER = rf"{_RUN}(?:,\d{{3}}){{0,8}}(?:\.\d++)?"
_RULES: tuple[_Rule, ...] = (
    (re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)"), _date),
    (re.compile(r"(\d{4})年(\d{1,2})月(\d{1,2})[日号]"), _date),
    (re.compile(r"(\d{4})(?=年)"), lambda found: digits(found[1])),
    (re.compile(r"(?<!\d)([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?!\d)"), _time),
    (
        re.compile(rf"([¥￥$€£])\s*({_NUMBER})([万亿]?)"),
        lambda found: f"{decimal(found[2])}{found[3]}{_CURRENCIES[found[1]]}",
    ),
    (
        re.compile(rf"(-?{_NUMBER})\s*(?:°C|℃)"),
        lambda found: f"{'零下' if found[1].startswith('-') else ''}{decimal(found[1].lstrip('-'))}摄氏度",
    ),
    (
        re.compile(r"([一-鿿][A-Z])[·\s]?([A-Z0-9]{5,6})(?![A-Z0-9])"),  # a plate
        lambda found: found[1] + re.sub(r"\d", lambda digit: digits(digit[0]), found[2]),
    ),
    (
        re.compile(r"(?<![\d/])(\d+)/(\d+)(?![\d/])"),
        lambda found: f"{cardinal(found[2])}分之{cardinal(found[1])}",
    ),
    (re.compile(rf"(-?{_NUMBER})\s*[%％]"), lambda found: f"百分之{decimal(found[1])}"),
    (
        re.compile(r"(?<!\d)(1[3-9]\d{9}|0\d{2,3}-\d{7,8}|400-?\d{3}-?\d{4})(?!\d)"),  # a telephone
        lambda found: digits(found[1].replace("-", "")).replace("一", "幺"),
    ),
    (
        re.compile(rf"(?<![\d-])({_NUMBER})\s*[-~～—]\s*({_NUMBER})(?![\d-])"),
        lambda found: f"{decimal(found[1])}到{decimal(found[2])}",
    ),
    (re.compile(r"(?<![\w.])(-\d+(?:\.\d+)?)"), lambda found: decimal(found[1])),
    (re.compile(r"(\d{1,3}(?:,\d{3}){1,8}(?:\.\d++)?)"), lambda found: decimal(found[1])),
    (re.compile(rf"({_RUN}\.\d++)"), lambda found: decimal(found[1])),
    (re.compile(rf"({_RUN})([{_MEASURES}])"), _quantity),
    (re.compile(r"\d+"), _digit_string),
)
