"""What is said of files that cannot be used: the most frequent reason first, and how many are too many."""

import errno

import pytest

from mae_ext.errors import BadSample, RunError, cause_of, check_bad, reasons, some

BAD = [
    BadSample("a.png", "empty", "0 bytes"),
    BadSample("b.png", "truncated", "30 of\n 400 bytes").row,
    BadSample("c.png", "hung"),
    BadSample("d.png", "truncated", "31 of 400 bytes").row,
    BadSample("e.png", "hung"),
    BadSample("f.png", "truncated"),
]


def test_reasons_come_by_how_many_they_are_of_with_the_first_files_and_the_detail_of_one():
    bad = [BadSample(f"{i}.png", "label map", f"{i} x 3") for i in range(5)]
    bad.insert(1, BadSample("odd.png", "empty", "0 bytes"))
    assert reasons(bad) == "5 label map (such as 0.png: 0 x 3; 1.png, 2.png), 1 empty (such as odd.png: 0 bytes)"
    assert reasons([error.row for error in bad]) == reasons(bad)
    assert reasons([BadSample("a", "empty"), BadSample("b", "empty")]) == "2 empty (such as a; b)"
    assert reasons(BAD[::-1]).startswith("3 truncated (such as f.png; d.png, b.png), 2 hung (such as e.png; c.png), 1 ")
    assert reasons(["x is odd", "y is even"]) == "x is odd; y is even"


@pytest.mark.parametrize(("total", "allowed", "stops"), [
    (6, 1.0, False), (12, 0.5, False), (11, 0.5, True), (600, 0.01, False), (599, 0.01, True), (6, 0.0, True),
])  # fmt: skip
def test_as_many_as_are_allowed_are_not_too_many_and_one_more_is(total, allowed, stops):
    check_bad([], total, 0.0, "here")
    if not stops:
        check_bad(BAD, total, allowed, "here")
        return
    with pytest.raises(
        RunError, match=rf"^here: 6 of {total} samples .* more than max_bad_fraction={allowed:g}: 3 trunc"
    ):
        check_bad(BAD, total, allowed, "here")


@pytest.mark.parametrize(("count", "told"), [(0, ""), (1, "0"), (5, "0, 1, 2, 3, 4"), (7, "0, 1, 2, 3, 4, and 2 more")])
def test_of_many_things_the_first_few_are_named_and_the_rest_are_counted(count, told):
    assert some(range(count)) == told


def test_what_the_process_may_not_open_is_not_blamed_on_the_file_it_was_opening():
    assert cause_of(OSError(errno.ENOSPC, "No space left", "/data/x")).startswith("/data/x: No space left (the disk is")
    assert cause_of(OSError(errno.EMFILE, "Too many open files", "/data/x")).startswith("Too many open files (this pro")
    assert cause_of(OSError(9999, "Odd", "/data/x")) == "/data/x: Odd"
