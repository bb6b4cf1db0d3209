import pytest

from lit_imgproc.errors import UserError
from lit_imgproc.extras import require


def test_what_is_installed_is_imported():
    assert require("os.path", "medical").join("a", "b") == "a/b"


def test_what_is_missing_is_one_sentence_with_the_command():
    with pytest.raises(UserError) as error:
        require("no_such_library.part", "medical")
    assert str(error.value) == (
        "no_such_library is needed for this: pip install 'lit_imgproc[medical]'"
    )


def test_what_a_library_misses_itself_is_no_matter_of_the_extra(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        require("half_there", "medical")
