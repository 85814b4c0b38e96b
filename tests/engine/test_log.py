"""Lines on the terminal are the words that were said."""

from mae_ext.engine.log import say


def test_a_name_with_colons_or_brackets_is_printed_as_it_is(capsys):
    """To rich, ":b:" is a picture of the letter, and "[bold]" a way to write."""
    say("x.tar::512+9::a:b::c.jpg [bold]")
    assert capsys.readouterr().err == "x.tar::512+9::a:b::c.jpg [bold]\n"
