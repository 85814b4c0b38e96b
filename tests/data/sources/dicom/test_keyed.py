"""The key with which headers are hashed: made once, for its owner alone."""

import pytest

from mae_ext.data.sources.dicom import keyed
from mae_ext.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(keyed.VARIABLE, raising=False)
    return tmp_path


def test_a_key_is_made_once_and_its_owner_alone_may_read_it(home):
    first = keyed.key()
    (file,) = (home / "mae_ext").iterdir()
    assert (keyed.key(), file.stat().st_mode & 0o777, len(first)) == (first, 0o600, 64)


def test_a_key_from_the_environment_counts_before_the_file_and_makes_none(home, monkeypatch):
    monkeypatch.setenv(keyed.VARIABLE, "a key of enough letters")
    assert keyed.key() == b"a key of enough letters"
    assert not list(home.iterdir())


def test_a_short_key_is_refused(home, monkeypatch):
    monkeypatch.setenv(keyed.VARIABLE, "short")
    with pytest.raises(UserError, match="5 letters; expected 16 or more"):
        keyed.key()
    monkeypatch.delenv(keyed.VARIABLE)
    (home / "mae_ext").mkdir()
    (home / "mae_ext" / "dicom.key").write_text("")
    with pytest.raises(UserError, match="0 letters"):
        keyed.key()


def test_where_no_key_can_be_kept_the_variable_is_named(home):
    (home / "mae_ext").write_text("a file where the folder would be")
    with pytest.raises(UserError, match=keyed.VARIABLE):
        keyed.key()
    assert keyed.hidden("patient", "Doe") == "patient ?"


def test_a_hash_is_of_the_key_of_what_it_names_and_of_its_value():
    one = keyed.hashed(b"key", "patient", "Doe")
    others = [("other", "patient", "Doe"), ("key", "study", "Doe"), ("key", "patient", "Roe")]
    assert len({one, *(keyed.hashed(k.encode(), what, value) for k, what, value in others)}) == 4
    # printf 'patient\0Doe' | openssl dgst -sha256 -hmac key
    assert one == "0d5b696035ba95c6"
