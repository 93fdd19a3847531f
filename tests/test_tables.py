"""Numbers as aligned text."""

import xml.etree.ElementTree

import numpy as np

import tf_tickets as tt
from tf_tickets.reports import tables


def test_the_text_of_a_ticket():
    masks = {"a/kernel": np.arange(6).reshape(2, 3) < 2, "b": np.ones(2000)}
    assert tables.ticket_table(tt.Ticket(masks)).splitlines() == [
        "kernel    shape   size   kept  sparsity",
        "a/kernel  2x3        6      2    0.6667",
        "b         2000   2,000  2,000    0.0000",
        "total            2,006  2,002    0.0020",
    ]


RESULTS = [
    {"round": 1, "sparsity": 0.2, "ticket": 0.97, "reinit": 0.96, "shuffled": 0.95},
    {"round": 2, "sparsity": 0.36, "ticket": 0.98, "reinit": None},
    {"round": 10, "sparsity": 0.9},
]


def test_the_text_of_a_search():
    assert tables.search_table(RESULTS, dense=0.97125).splitlines() == [
        "round  sparsity  kept weights  ticket   dense  reinit  shuffled",
        "    1    0.2000        80.00%  0.9700  0.9712  0.9600    0.9500",
        "    2    0.3600        64.00%  0.9800  0.9712       -         -",
        "   10    0.9000        10.00%       -  0.9712       -         -",
    ]


def test_the_text_of_a_search_without_a_dense_network():
    last = tables.search_table(RESULTS).splitlines()[-1]
    assert last.split() == ["10", "0.9000", "10.00%", "-", "-", "-", "-"]


def test_html_escapes_every_cell_and_aligns_columns():
    text = tables.html([("a", "b"), ("<script>", "1 & 2")], left=1, caption="'x'")
    table = xml.etree.ElementTree.fromstring(text)
    rows = [[cell.text for cell in row] for row in table.iter("tr")]
    assert rows == [["a", "b"], ["<script>", "1 & 2"]]
    assert [cell.get("style") for cell in table.iter("td")] == [
        "text-align:left",
        "text-align:right",
    ]
    assert table.findtext("caption") == "'x'"
    assert "<caption>" not in tables.html([("a",)])


def test_lines_of_html_are_one_paragraph():
    assert tables.html_lines([]) == ""
    assert tables.html_lines(["<p>"]) == "<p>&lt;p&gt;</p>"
