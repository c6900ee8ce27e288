"""Times in tables and annotation files: names of their columns, and their values."""

import re

# First and last word of the headers; a table has both of a pair.
_PAIRS = (
    *(("start", "end"), ("start", "stop"), ("start", "finish"), ("begin", "end")),
    *(("begin", "stop"), ("onset", "offset"), ("from", "to"), ("tmin", "tmax")),
)
_FORMS = (
    *("{}", "{}_time", "{}time", "time_{}", "t_{}", "{}_timestamp", "timestamp_{}"),
    *("{}_s", "{}_sec", "{}_secs", "{}_second", "{}_seconds"),
    *("{}_time_s", "{}_time_sec", "{}_time_seconds", "{}_time_ss_msec", "{}_time_hh_mm_ss_ms"),
)
# Of these there are no seconds, or it is unknown from which frame they count.
_OTHER_FORMS = ("{}_frame", "frame_{}", "{}_ms", "{}_msec", "{}_time_ms", "{}_time_msec")
_SECONDS = re.compile(r"-?(?:\d{1,12}(?:[.,]\d*)?|[.,]\d+)(?:e[-+]?\d{1,2})?", re.ASCII | re.I)
_CLOCK = re.compile(r"(-?)(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)", re.ASCII)
_EXPECTED = "expected seconds such as 12.5, or h:mm:ss such as 0:01:12.500"


def time_columns(names):
    """`{"start": index, "end": index}` among normalized headers, or an empty dict."""
    for words in _PAIRS:
        found = [
            next((names.index(name) for form in _FORMS if (name := form.format(word)) in names), -1)
            for word in words
        ]
        if min(found) >= 0:
            return dict(zip(("start", "end"), found, strict=True))
    return {}


def is_time(name):
    """Whether a normalized header names a beginning or an end, of whatever kind."""
    words = {word for pair in _PAIRS for word in pair} - {"from", "to", "offset", "stop", "end"}
    forms = (*_FORMS, *_OTHER_FORMS)
    return any(form.format(word) == name for word in sorted(words) for form in forms)


def parse_seconds(text):
    """Seconds from text: `"12.5"`, also with a decimal comma, or `"0:01:12.500"`.

    Raises:
        ValueError: it is neither; the message has both.
    """
    text = str(text).strip()
    if _SECONDS.fullmatch(text):
        return float(text.replace(",", "."))
    clock = _CLOCK.fullmatch(text)
    if not clock:
        raise ValueError(f"{text!r} is not a time; {_EXPECTED}")
    sign, hours, minutes, seconds = clock.groups()
    minutes, seconds = int(minutes), float(seconds.replace(",", "."))
    if seconds >= 60 or (hours and minutes >= 60):
        raise ValueError(f"{text!r} is not a time; {_EXPECTED}")
    total = 3600 * int(hours or 0) + 60 * minutes + seconds
    return -total if sign else total
