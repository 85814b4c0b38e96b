"""What messages say of many bad files at once."""

from mae_ext.errors import BadSample, reasons


def test_reasons_come_by_how_many_they_are_of_with_the_first_files_and_the_detail_of_one():
    bad = [BadSample(f"{i}.png", "label map", f"{i} x 3") for i in range(5)]
    bad.insert(1, BadSample("odd.png", "empty", "0 bytes"))
    assert reasons(bad) == "5 label map (such as 0.png: 0 x 3; 1.png, 2.png), 1 empty (such as odd.png: 0 bytes)"
    assert reasons([error.row for error in bad]) == reasons(bad)
    assert reasons([BadSample("a", "empty"), BadSample("b", "empty")]) == "2 empty (such as a; b)"
