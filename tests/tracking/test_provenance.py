import hashlib
import json
import subprocess

import psutil
import pytest
from mlflow.tracking import MlflowClient

from lit_imgproc.tracking import provenance as module
from lit_imgproc.tracking.logger import MLflowTracker
from lit_imgproc.tracking.provenance import collect, log_provenance


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, one change and one untracked file; we stand elsewhere."""
    root, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    (root / "experiments").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    git(root, "init", "-b", "trunk")
    (root / "experiments/a.yaml").write_text("seed: 0\n")
    (root / ".gitignore").write_text("data/\n")
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    return root


def test_a_clean_tree_is_clean(repository):
    found = collect(repository / "experiments/a.yaml", ["lit-imgproc", "train", "a"]).git
    assert found.branch == "trunk"
    assert len(found.commit) == 40
    assert (found.dirty, found.diff, found.untracked) == (False, "", [])


def test_changes_can_be_applied_again_and_untracked_files_have_digests(repository):
    recipe = repository / "experiments/a.yaml"
    recipe.write_text("seed: 1\n")
    (repository / "Pêche.py").write_bytes(b"x = 1\n")
    (repository / "data").mkdir()
    (repository / "data/ignored").touch()
    found = collect(recipe, ["x"]).git
    assert found.dirty
    assert found.untracked == [
        {"path": "Pêche.py", "bytes": 6, "sha256": hashlib.sha256(b"x = 1\n").hexdigest()}
    ]
    git(repository, "checkout", "experiments/a.yaml")
    (repository / "data/diff.patch").write_text(found.diff)
    git(repository, "apply", "data/diff.patch")
    assert recipe.read_text() == "seed: 1\n"


def test_only_untracked_files_are_dirty_too(repository):
    (repository / "new.py").touch()
    assert collect(repository / "experiments/a.yaml", ["x"]).git.dirty


def test_a_large_diff_is_cut_and_says_so(repository, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_DIFF", 100)
    (repository / "experiments/a.yaml").write_text("\n".join(map(str, range(1000))))
    diff = collect(repository / "experiments/a.yaml", ["x"]).git.diff
    assert len(diff) < 200
    assert "[cut here: the diff has" in diff


def test_before_the_first_commit(tmp_path, monkeypatch):
    git(tmp_path, "init", "-b", "trunk")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").touch()
    found = collect(None, ["x"]).git
    assert (found.commit, found.branch, found.dirty) == (None, "trunk", True)


def test_the_working_folder_is_asked_where_the_recipe_is_in_no_repository(
    repository, tmp_path, monkeypatch
):
    packaged = tmp_path / "site-packages/experiments/quickstart.yaml"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    assert collect(packaged, ["x"]).git is None
    monkeypatch.chdir(repository / "experiments")
    assert collect(packaged, ["x"]).git.root == str(repository)


def test_packages_and_hardware(repository):
    found = collect(None, ["x"])
    assert any(line.startswith("torch==") for line in found.packages)
    assert found.hardware["memory_bytes"] == psutil.virtual_memory().total
    assert found.hardware["cpu"]
    assert isinstance(found.hardware["gpus"], list)


def test_no_secret_is_recorded(repository, monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2")
    git(repository, "remote", "add", "origin", "https://me:hunter2@example.org/x.git")
    found = collect(
        repository / "experiments/a.yaml", ["train", "tracking.uri=https://me:hunter2@host:5000"]
    )
    assert "hunter2" not in repr(found)
    assert found.command == ["train", "tracking.uri=https://***@host:5000"]


def test_all_of_it_is_in_the_run(repository, store):
    recipe = repository / "experiments/a.yaml"
    recipe.write_text("seed: 1\n")
    found = collect(recipe, ["lit-imgproc", "train", "a", "data.root=my data"])
    tracker = MLflowTracker(
        experiment="x", uri=store.uri, artifacts=store.artifacts, run_name=None, tags=None
    )
    log_provenance(tracker, found)
    tracker.end("FINISHED")
    tags = MlflowClient(store.uri).get_run(tracker.run_id).data.tags
    assert tags["mlflow.source.git.commit"] == found.git.commit
    assert tags["mlflow.source.git.branch"] == "trunk"
    assert tags["git.dirty"] == "true"
    assert tags["mlflow.source.name"] == str(recipe)
    assert tags["command"] == "lit-imgproc train a 'data.root=my data'"
    folder = tracker.artifact_dir / "provenance"
    assert {path.name for path in folder.iterdir()} == {
        "git.json",
        "diff.patch",
        "untracked.json",
        "packages.txt",
        "hardware.json",
        "command.txt",
    }
    assert "+seed: 1" in (folder / "diff.patch").read_text()
    assert json.loads((folder / "git.json").read_text())["commit"] == found.git.commit
    assert json.loads((folder / "hardware.json").read_text()) == found.hardware
