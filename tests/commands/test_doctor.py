"""hdfast doctor: a sound installation passes, and every check can fail and says what to do."""

import importlib.util

import pytest
import torch

from hdfast import ops
from hdfast.commands import doctor
from hdfast.commands.doctor import Outcome
from hdfast.errors import RunError
from hdfast.run import checkpoint

CPU = torch.device("cpu")


def test_a_sound_installation_passes(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "DISK_NEEDED", 2**20)
    code = doctor.doctor()
    report = capsys.readouterr().out
    assert code == 0, report
    for title in ("Versions", "Devices", "Build", "Environments", "Self-checks"):
        assert f"\n{title}\n" in report
    assert f"{'torch':<22} {torch.__version__}" in report
    assert f"{'CPU kernels':<22} " in report or "native library         none" in report
    assert "usable cores" in report and "native library         " in report
    for name in ("envpool", "ale", "gymnasium", "rendering", "operation on cpu", "update on cpu", "checkpoint", "disk"):
        assert f"{name:<22} PASS" in report or f"{name:<22} MISSING" in report
    assert report.endswith("All required checks passed.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def only_doors(monkeypatch):
    """Backends that need no library: the checks around them are what is tested."""
    monkeypatch.setattr(doctor, "open_backend", lambda backend: "opened")
    monkeypatch.setattr(doctor, "rendering", lambda: Outcome("rendering", "PASS", "drawn"))
    monkeypatch.setattr(doctor, "self_checks", lambda: iter(()))


def hide(monkeypatch, *modules):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in modules else object())


def test_a_missing_door_is_named_with_its_remedy(only_doors, monkeypatch, capsys):
    hide(monkeypatch, "envpool", "gymnasium")
    assert doctor.doctor() == 0
    report = capsys.readouterr().out
    assert f"{'envpool':<22} MISSING  pip install envpool" in report and f"{'ale':<22} PASS" in report


def test_no_atari_door_fails(only_doors, monkeypatch, capsys):
    hide(monkeypatch, "envpool", "ale_py")
    assert doctor.doctor() == 1
    assert "FAILED: atari" in capsys.readouterr().out


def test_a_broken_door_fails(monkeypatch):
    hide(monkeypatch)

    def broken(backend):
        if backend.name == "envpool":
            raise OSError("libfoo.so:\ncannot open")
        return "opened"
    monkeypatch.setattr(doctor, "open_backend", broken)
    monkeypatch.setattr(doctor, "rendering", lambda: Outcome("rendering", "PASS", "drawn"))
    assert list(doctor.backends()) == [Outcome("envpool", "FAIL", "OSError: libfoo.so: cannot open"),
                                       Outcome("ale", "PASS", "opened"), Outcome("gymnasium", "PASS", "opened"),
                                       Outcome("rendering", "PASS", "drawn")]


def test_rendering_needs_a_library_and_no_run_of_atari_does(monkeypatch):
    def refuse(task, env):
        raise RunError("images of MuJoCo are drawn by libEGL: run `apt-get install -y libegl1`")

    monkeypatch.setattr(doctor, "make_envs", refuse)
    assert doctor.rendering() == Outcome("rendering", "MISSING", "images of MuJoCo are drawn by libEGL: run `apt-get "
                                         "install -y libegl1`")


def test_a_wrong_operation_fails(monkeypatch):
    right = ops.gru_gates
    monkeypatch.setattr(ops, "gru_gates", lambda *tensors: right(*tensors) + 1e-4)
    with pytest.raises(ArithmeticError, match=r"off by 1.*reinstall torch"):
        doctor.check_operation(CPU)


@pytest.mark.parametrize(("updates", "message"), [
    ([({"w": torch.ones(2)}, {"loss": float("nan")})] * 2, "not finite after one update: loss"),
    ([({"w": torch.tensor([1.0, torch.inf])}, {"loss": 1.0})] * 2, "not finite after one update: w"),
    ([({"w": torch.ones(2)}, {"loss": 1.0}), ({"w": torch.zeros(2)}, {"loss": 1.0})], "differ in: w")])
def test_a_wrong_update_fails(updates, message, monkeypatch):
    results = iter(updates)
    monkeypatch.setattr(doctor, "tiny_update", lambda device: next(results))
    with pytest.raises(ArithmeticError, match=message):
        doctor.check_update(CPU)


def test_an_unreadable_checkpoint_fails(monkeypatch):
    monkeypatch.setattr(checkpoint, "latest", lambda directory: None)
    with pytest.raises(OSError, match="differs from what was written"):
        doctor.check_checkpoint()


def test_a_full_disk_fails(monkeypatch):
    monkeypatch.setattr(doctor, "DISK_NEEDED", 2**62)
    with pytest.raises(OSError, match="point --logdir at a larger disk"):
        doctor.check_disk()


def test_a_directory_that_takes_no_files_fails(monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert doctor.attempt("disk", doctor.check_disk).status == "FAIL"
