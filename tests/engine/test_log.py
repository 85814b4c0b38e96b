"""Lines on the terminal are the words that were said."""

import io

from mae_ext.engine.log import console, say


def test_a_name_with_colons_or_brackets_is_printed_as_it_is(monkeypatch):
    """To rich, ":b:" is a picture of the letter, and "[bold]" a way to write."""
    told = io.StringIO()
    monkeypatch.setattr(console, "file", told)
    say("x.tar::512+9::a:b::c.jpg [bold]")
    assert told.getvalue() == "x.tar::512+9::a:b::c.jpg [bold]\n"
