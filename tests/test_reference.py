"""Every public name says what it is and shows it: in the reference, and by an example that runs."""

import doctest
import inspect

import pytest

import mae_ext
import mae_ext.rng

PUBLIC = [*mae_ext.__all__, "rng.rng"]


def public(name):
    found = mae_ext
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring_whose_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(public(name))
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert test.examples, f"{name}: its docstring has no example"
    told = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not result.failed, "".join(told)
