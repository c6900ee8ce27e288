"""Elements of HTML and foreign names in them."""

import pytest
from page_elements import Elements

from trn_jax.pages.markup import Markup, join, middle_cut, name, tag

HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a\x00\x1b[31m\x07b",
    "\u202egnp.exe\u2066",
    "&lt;b&gt; &amp;",
    "\ud800 half",
    "x" * 10_000,
    "<!--",
    "{{7*7}} ${7*7}",
    "فتح الباب",
    "打开某物",
)


def test_texts_and_attributes_are_escaped():
    made = tag("p", "a < b & c", tag("b", "<i>"), None, 3, title='"quoted"', hidden=True, lang=None)
    assert made == ('<p title="&quot;quoted&quot;" hidden>a &lt; b &amp; c<b>&lt;i&gt;</b>3</p>')
    assert tag("br") == "<br>" and tag("rect", stroke_width=2, class_="a") == (
        '<rect stroke-width="2" class="a"></rect>'
    )
    assert join(["<", Markup("<br>"), ["&"]], between=", ") == "&lt;, <br>, &amp;"
    assert isinstance(join([]), Markup)


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_names_are_texts(text):
    made = tag("td", name(text), data_value=text, title=text)
    parsed = Elements(made)
    assert parsed.count.keys() == {"td", "bdi"}
    assert parsed.count["td"][0].keys() == {"data-value", "title"}
    assert parsed.count["bdi"][0]["dir"] == "auto"
    assert len("".join(parsed.texts)) <= 120
    assert not any(ord(c) < 32 or c in "\u202e\u2066\ud800" for c in made)


def test_letters_of_all_scripts_stay():
    assert "打开某物" in name("打开某物") and "فتح الباب" in name("فتح الباب")


def test_long_names_keep_both_ends():
    long = "begin" + "x" * 10_000 + "end"
    shown = "".join(Elements(name(long)).texts)
    assert shown.startswith("begin") and shown.endswith("end") and "…" in shown
    assert len(middle_cut("abcdefghij", 6)) == 6 and middle_cut("abc", 3) == "abc"


@pytest.mark.parametrize("key", ["onclick", "style", "a b", "x>"])
def test_handlers_and_styles_are_refused(key):
    with pytest.raises(TypeError, match=key):
        tag("p", **{key: "x"})
