"""How descriptions of what made a file differ, and folders that are made at once."""

import pytest

from trn_jax.errors import UserError
from trn_jax.files import differences, new_folder, read_text, reading

_BEFORE = {"step": 3, "checksum": "1f", "contract": {"view": {"crop": "center", "size": 28}}}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (_BEFORE, ""),
        (
            _BEFORE | {"contract": {"view": {"crop": "ten", "size": 28}}},
            "contract.view.crop: 'center' -> 'ten'",
        ),
        (_BEFORE | {"every": 0.5}, "every: None -> 0.5"),
        (_BEFORE | {"contract": None}, "contract.view.crop: 'center' -> None; contract.view.size"),
    ],
)
def test_only_what_differs_is_named(now, expected):
    found = differences(_BEFORE, now)
    assert found == expected or (expected.endswith("size") and found.startswith(expected))


def test_another_checkpoint_is_named_once():
    found = differences(_BEFORE, _BEFORE | {"checksum": "2e", "step": 4})
    assert "another checkpoint" in found and "checksum" in found
    assert "step" not in found and "2e" not in found


def test_many_differences_are_counted():
    found = differences({}, {f"key{n}": n for n in range(9)})
    assert "key4" in found and "key5" not in found and found.endswith("4 more")


def test_a_new_folder_is_complete_or_not_there(tmp_path):
    path = tmp_path / "some" / "folder"
    with new_folder(path) as unnamed:
        unnamed.mkdir()
        (unnamed / "a").write_text("1")
        assert not path.exists()
    assert [each.name for each in path.iterdir()] == ["a"]
    with pytest.raises(UserError, match="folder exists"), new_folder(path):
        pass

    def fail(error):
        with new_folder(tmp_path / "other") as unnamed:
            unnamed.mkdir()
            raise error

    with pytest.raises(UserError, match=r"other.*No space left on device"):
        fail(OSError(28, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert [each.name for each in tmp_path.iterdir()] == ["some"]
    assert [each.name for each in (tmp_path / "some").iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["table.csv", "t\u202e.csv"])
def test_errors_of_readers_name_the_file_once(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\x00")
    for missing in (path, tmp_path / f"no {name}"):
        with pytest.raises(UserError) as found, reading(missing, "a table"):
            read_text(missing)
        assert str(found.value).count(".csv") == 1
    with pytest.raises(UserError, match=r"\.csv: it has no header"), reading(path, "a table"):
        raise UserError("it has no header")
