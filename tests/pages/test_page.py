"""The frame of a page, its tables, charts and pictures."""

import base64
import hashlib
import re

import cv2
import numpy as np
import pytest
from page_elements import Elements

from trn_jax.errors import UserError
from trn_jax.pages import charts, page, pictures, tables
from trn_jax.pages.markup import name, tag


def one_table():
    columns = [tables.Column("class"), tables.Column("accuracy", is_number=True, help="of videos")]
    rows = [[tables.Cell(name("<b>"), "b"), tables.percent(0.5)], ["a", tables.percent(None)]]
    return tables.table("per class", columns, rows)


def test_a_page_allows_its_own_style_and_script_only():
    text = page.page("A & B", page.section("one", "One", one_table()), lead="lead")
    parsed = Elements(text)
    policy = parsed.count["meta"][1]["content"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    style, script = parsed.embedded
    for rule, content in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert len(parsed.count["script"]) == 1
    # Nothing refers to another file, and nothing needs what the policy forbids.
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|url\(|@import|style=|\son\w+=", text)
    assert parsed.count["html"][0]["lang"] == "en" and "A &amp; B" in text
    without = Elements(page.page("x", scripts=()))
    assert "script" not in without.count
    assert "script-src" not in without.count["meta"][1]["content"]


def test_tables_have_captions_scopes_and_values():
    parsed = Elements(one_table())
    assert [each.get("scope") for each in parsed.count["th"]] == ["col", "col", "row", "row"]
    assert "caption" in parsed.count and "data-sortable" in parsed.count["table"][0]
    assert parsed.count["div"][0]["tabindex"] == "0"
    assert [each.get("data-value") for each in parsed.count["td"]] == ["0.5", None]


def test_a_page_of_more_than_ten_megabytes_is_not_written(tmp_path):
    with pytest.raises(UserError, match="10,000,000"):
        page.write_page(tmp_path / "a.html", "x" * 10_000_001)
    assert list(tmp_path.iterdir()) == []
    page.write_page(tmp_path / "new" / "folder" / "a.html", "é")
    assert (tmp_path / "new" / "folder" / "a.html").read_text(encoding="utf-8") == "é"


def test_lines_go_where_their_values_are():
    made = charts.line_chart(
        "Loss", [("train", [0, 5, 10], [2.0, 1.0, 0.0]), ("none", [1], [np.nan])], x="step"
    )
    parsed = Elements(made)
    assert [each["role"] for each in parsed.count["svg"] if "role" in each] == ["img"]
    assert "title" in parsed.count and "desc" in parsed.count
    points = [
        tuple(map(float, p.split(","))) for p in parsed.count["polyline"][0]["points"].split()
    ]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 == pytest.approx((x0 + x2) / 2) and y1 == pytest.approx((y0 + y2) / 2)
    assert x0 < x2 and y0 < y2  # down the page as the loss falls
    assert "no values" in charts.line_chart("Loss", [("none", [], [])], x="step")


def test_long_lines_keep_their_extremes():
    xs = np.arange(100_000)
    ys = np.sin(xs / 7.0)
    ys[55_555] = 9
    thin_x, thin_y = charts.thinned(xs, ys)
    assert len(thin_x) <= 400 and thin_y.max() == 9 and thin_y.min() == ys.min()
    assert list(thin_x) == sorted(thin_x) and thin_x[0] == 0 and thin_x[-1] == 99_999


def test_columns_and_bars_have_signs_and_errors():
    made = charts.column_chart(
        "Value of frames", [0.5, -0.25], ["1", "2"], errors=[0.1, 0], description="d", marked=(1,)
    )
    up, down = [each for each in Elements(made).count["rect"] if "fill" in each["class"]]
    assert float(up["height"]) == pytest.approx(2 * float(down["height"]), abs=0.3)
    assert float(up["y"]) + float(up["height"]) == pytest.approx(float(down["y"]), abs=0.2)
    assert len([e for e in Elements(made).count["line"] if e["class"] == "error"]) == 1
    for value, left, width in ((1, 48, 48), (-1, 0, 48), (0.5, 48, 24), (9, 48, 48)):
        _, filled = Elements(charts.bar(value, low=-1, high=1)).count["rect"]
        assert (float(filled["x"]), float(filled["width"])) == (left, width)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 8), (1e-5, 3e-5), (0, 123456)])
def test_ticks_are_round_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in found)


def test_strips_are_pictures_inside_the_page():
    frames = np.zeros((3, 40, 80, 3), np.uint8)
    frames[1, :, :, 0] = 200
    made = pictures.strip(frames, ["a", "b", "<c>"], label="three", side=60, marked=(1,))
    images = Elements(made).count["img"]
    assert [(each["width"], each["height"]) for each in images] == [("60", "30")] * 3
    assert all(each["alt"] for each in images) and "&lt;c&gt;" in made
    content = base64.b64decode(images[1]["src"].removeprefix("data:image/webp;base64,"))
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (30, 60, 3)
    assert abs(int(shown[..., 2].mean()) - 200) < 20 and shown[..., 0].mean() < 20
    assert pictures.resized(frames[0], 500).shape == (80, 160, 3)  # twice at most
    assert tag("p", made).count("<img") == 3
