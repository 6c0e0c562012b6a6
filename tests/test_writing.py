"""What writes a file makes its folder; if that fails, one error names the file and the reason."""

import errno

import pytest

from fnbackprop.writing import WriteError, writing


def test_the_folder_is_made(tmp_path):
    with writing(tmp_path / "new" / "folder" / "page.html") as _:
        (tmp_path / "new" / "folder" / "page.html").write_text("there")


@pytest.mark.parametrize(
    "number, why", [(errno.EACCES, "Permission denied"), (errno.ENOSPC, "No space left on device")]
)
def test_the_file_and_the_reason_are_named(tmp_path, number, why):
    with pytest.raises(WriteError, match=rf"page.html cannot be written: {why}"), writing(tmp_path / "page.html"):
        raise OSError(number, why)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="page.html cannot be written: its folder is a file"):
        with writing(tmp_path / "file" / "page.html"):
            pytest.fail("it was made")


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(ValueError, match="another"), writing(tmp_path / "page.html"):
        raise ValueError("another")
