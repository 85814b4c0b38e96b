"""docs/odd_folders.md shows what the commands say."""

import odd_folders


def test_the_page_of_odd_folders_is_what_the_commands_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # and back, afterwards: the script goes there
    made = "".join(odd_folders.page(tmp_path)).split("\n## ")
    kept = odd_folders.PAGE.read_text().split("\n## ")
    assert len(made) > 10
    for now, before in zip(made, kept, strict=True):
        assert now == before
