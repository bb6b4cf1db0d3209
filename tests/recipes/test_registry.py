import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from lit_imgproc.errors import UserError
from lit_imgproc.recipes import registry


@pytest.mark.parametrize("kind", registry.TABLES)
def test_every_name_resolves_to_its_kind(kind):
    for name in registry.TABLES[kind]:
        assert callable(registry.resolve(kind, name)), name


def test_every_kind_has_a_base():
    assert set(registry.KINDS.values()) == set(registry.TABLES)


def test_a_path_resolves():
    from torch import nn

    assert registry.resolve("network", "torch.nn:Identity") is nn.Identity


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("network", "resnet21", "no network has this name; did you mean resnet"),
        ("optimizer", "sgdd", "did you mean sgd? allowed: sgd, adam, adamw, rmsprop, or"),
        ("schedule", "zzz", "no schedule has this name; allowed: cosine, "),
        ("network", "no_such_module:Net", "no_such_module cannot be imported"),
        ("network", "torch.nn:Linearr", "torch.nn has no Linearr; did you mean Linear"),
        ("module", "torch.nn:Linear", "torch.nn:Linear is not a module"),
        ("network", "lightning.pytorch:LightningModule", "is not a network"),
    ],
)
def test_unknown_names(kind, name, sentence):
    with pytest.raises(UserError) as error:
        registry.resolve(kind, name)
    assert sentence in str(error.value)


def test_other_packages_add_names(monkeypatch):
    def entry_points(*, group):
        found = {"lit_imgproc.strategies": [EntryPoint("mine", "stand_ins:Mine", group)]}
        return found.get(group, [])

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    registry.names.cache_clear()
    assert registry.names("strategy")["mine"] == "stand_ins:Mine"
    assert "mine" not in registry.names("network")
    monkeypatch.undo()
    registry.names.cache_clear()


def test_importing_it_imports_nothing_heavy():
    code = """
import sys, lit_imgproc.recipes.registry as r
r.names("network")
print([m for m in ("torch", "lightning", "pydantic", "omegaconf", "numpy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
