import pytest


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Spools lie in the working folder."""
    monkeypatch.chdir(tmp_path)
