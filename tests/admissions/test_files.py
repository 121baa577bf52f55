"""What a controller of admission keeps in files and pickles."""

import numpy as np
import pytest

from llmds.admissions import AdmissionController
from llmds.kernels.admissions import window as kernels
from tests import face
from tests.admissions.model import Clock


def filled(clock):
    door = AdmissionController(0.75, 100, 8, clock=clock, tenant_qps_target=3)
    door.set_limits(8, 0.5, 70), door.set_limits(9, token_rate_limit=5)
    for tokens, tenant in ((10, None), (500, 7), (30, 8), (20, None), (40, 8)):
        clock.now += 1.5
        door.should_admit(tokens, tenant=tenant)
    door.record_request(7, ticket=1)
    return door


def test_files_of_the_first_version_are_read(tmp_path):
    clock = Clock(50.0)
    door = AdmissionController(0.75, 100, 8, clock=clock)
    door.should_admit(10), door.should_admit(20), door.record_request(5)
    arena = door._to_arrays()["arena"]
    ring = arena[kernels.HEAD :].reshape(-1, 3)[:, :2]
    old = np.concatenate([arena[: kernels.HEAD], ring.ravel()])
    old[1] = 2
    np.savez(tmp_path / "old.npz", format=np.array("llmds AdmissionController 1"), arena=old)
    loaded = AdmissionController.load(tmp_path / "old.npz", clock=clock)
    loaded.check()
    assert loaded.stats() == door.stats() and loaded.should_admit(1, tenant=3)[0]
    assert loaded.tenant_stats(3)["current_qps"] == 1 / 8
    np.savez(tmp_path / "old.npz", format=np.array("llmds AdmissionController 1"), arena=old[:-1])
    with pytest.raises(ValueError, match="damaged"):
        AdmissionController.load(tmp_path / "old.npz", clock=clock)


def test_files_and_pickles_keep_everything(tmp_path):
    clock = Clock(100.0)
    door = filled(clock)
    for other in face.keeps_everything(door, tmp_path, clock=clock):
        assert other.stats() == door.stats() and other.last_ticket == door.last_ticket


def test_saved_times_are_ages(tmp_path):
    clock = Clock(100.0)
    door = filled(clock)
    clock.now = 109.25
    door.save(tmp_path / "door.npz")
    other_clock = Clock(-3.0)
    other = AdmissionController.load(tmp_path / "door.npz", clock=other_clock)
    assert len(other) == len(door) == 5
    with pytest.raises(ValueError, match=r"-3\.0"):
        other.should_admit_many([-3.5], [1])
    other_clock.now, clock.now = -2.75, 109.5
    assert len(other) == len(door) == 4
    assert other.should_admit_many([-1.25], [0]).tolist() == [True] and len(other) == 4
    other.check()


def test_no_damaged_file_passes_or_crashes(tmp_path):
    clock = Clock(3.0)
    face.survives_damage(filled(clock), tmp_path, clock=clock)
    face.refuses_other_files(AdmissionController, tmp_path, clock=clock)
