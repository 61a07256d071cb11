"""Tables on a page: text is escaped, markup is not, an empty header is none."""

from mmray.page.document import document, figure_html, table_html
from mmray.page.table import Markup, Table, number


def test_cells_are_text_unless_they_are_made_as_markup():
    html = table_html('a "<b>"', Table(("x", ""), [("<i>", Markup("<u>1</u>"))], frozenset({"x"})))
    assert '<td class="text">&lt;i&gt;</td><td><u>1</u></td>' in html
    assert '<th class="text">x</th><td></td>' in html
    assert 'aria-label="a &quot;&lt;b&gt;&quot;"' in html


def test_a_figure_is_drawn_for_screens_and_for_phones():
    html = figure_html(lambda size: f"{size[0]:g}", "told", ((720.0, 1.0), (345.0, 1.0)), "small")
    assert html == (
        '<figure class="small"><div class="wide">720</div><div class="narrow">345</div>'
        "<figcaption>told</figcaption></figure>"
    )


def test_a_title_is_text():
    page = document("<script>", "<p>body</p>", style="p { margin: 0 }")
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 2
    assert "p { margin: 0 }</style>" in page


def test_one_is_singular():
    assert [number(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
