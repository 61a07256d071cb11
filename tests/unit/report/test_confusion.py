"""Which labels are taken for which: a matrix of few, the worst pairs of many."""

from mmray.report.confusion import confusion_html
from mmray.report.judged import Judged


def judged(pairs):
    found = Judged("meta_label", 1)
    for (label, given), count in pairs.items():
        found.pairs.add((label, given), count)
        found.labels.add(label, count)
    return found


def test_few_labels_make_a_matrix_with_a_cell_for_each_pair():
    html = "".join(confusion_html(judged({("a", "a"): 9, ("a", "b"): 1, ("<b>", "a"): 2})))
    assert html.count("<td") == 1 + 3 * 3
    assert html.count('class="shade"') == 3
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_of_many_labels_the_pairs_that_are_confused_most_are_listed():
    pairs = {(f"l{i:02d}", f"l{i:02d}"): 50 for i in range(40)}
    pairs |= {(f"l{i:02d}", f"l{i + 1:02d}"): i for i in range(1, 39)}
    html = "".join(confusion_html(judged(pairs)))
    assert html.count("<tr>") == 1 + 30
    assert html.index(">l38<") < html.index(">l37<")
    assert "43.2 %" in html, "38 of 88"


def test_where_all_is_right_there_is_nothing_to_list():
    assert list(confusion_html(judged({(f"{i}", f"{i}"): 1 for i in range(40)}))) == []
