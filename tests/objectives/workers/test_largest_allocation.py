"""The largest single allocation: the search alone, and the program on a driver that is not there.

A grant is the driver's: the fake gives nothing that does not lie in one of its pieces, takes a
context's memory first, and says what a process held at most and left behind.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

from objectives import workers
from objectives.workers.largest_allocation import GRANULE_BYTES, search
from tests.objectives.workers.fake_driver import GPU, FakeDevice

MIB = 1 << 20


def never():
    return False


class TestSearch:
    @pytest.mark.parametrize("there_mib", [0, 1, 2, 3, 100, 1023, 1024, 5000])
    def test_it_ends_within_a_granule_of_what_there_is(self, there_mib):
        there = there_mib * MIB
        most = 12 * 1024 * MIB
        granted, refused, tries = search(lambda size: size <= there, most, is_over=never)
        assert granted <= there < refused == granted + GRANULE_BYTES
        assert tries <= 14

    def test_all_that_is_asked_for_is_one_try(self):
        assert search(lambda size: True, 9 * MIB, is_over=never) == (8 * MIB, None, 1)

    @pytest.mark.parametrize("most", [0, GRANULE_BYTES - 1])
    def test_nothing_is_asked_for_where_there_is_nothing(self, most):
        assert search(lambda size: pytest.fail("asked"), most, is_over=never) == (0, None, 0)

    def test_time_that_is_up_leaves_what_is_known(self):
        over = iter([False, False, True])
        found = search(lambda size: size <= 300 * MIB, 1024 * MIB, is_over=lambda: next(over))
        assert found == (256 * MIB, 512 * MIB, 3)


@pytest.fixture
def ask(tmp_path):
    def ask(*options, **device):
        fake = FakeDevice(tmp_path, **device)
        done = subprocess.run(
            (sys.executable, "-I", "-S", str(workers.LARGEST_ALLOCATION), *map(str, options)),
            env={**os.environ, **fake.env},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, fake.ended

    return ask


def test_one_piece_is_given_whole_beside_its_own_context(ask):
    done, _ = ask(pieces=(9000,), context=300, total=12000)
    assert json.loads(done.stdout) == {
        "uuid": GPU,
        "total_bytes": 12000 * MIB,
        "free_bytes": 8700 * MIB,
        "free_after": 8700 * MIB,
        "asked_bytes": 8700 * MIB,
        "granted_bytes": 8700 * MIB,
        "refused_bytes": None,
        "tries": 1,
    }


def test_of_memory_in_pieces_the_largest_piece_is_found(ask):
    done, _ = ask(pieces=(1000, 3001, 2000), context=300)
    found = json.loads(done.stdout)
    assert found["free_bytes"] == 5701 * MIB
    assert found["asked_bytes"] == 5700 * MIB
    assert found["granted_bytes"] == 3000 * MIB
    assert found["refused_bytes"] == 3002 * MIB


def test_whatever_it_takes_it_gives_back_and_never_holds_two(ask):
    done, ended = ask(pieces=(1000, 3000, 2000))
    assert ended["held"] == 0
    assert ended["most_held"] == json.loads(done.stdout)["granted_bytes"] == 3000 * MIB
    assert ended["allocs"] == json.loads(done.stdout)["tries"]


def test_what_must_stay_free_is_never_asked_for(ask):
    done, ended = ask("--leave-bytes", 256 * MIB, pieces=(1000,))
    assert json.loads(done.stdout)["asked_bytes"] == 744 * MIB
    assert ended["most_held"] == 744 * MIB


def test_where_less_is_free_than_must_stay_so_nothing_is_asked(ask):
    done, ended = ask("--leave-bytes", 256 * MIB, pieces=(100,))
    found = json.loads(done.stdout)
    assert (found["asked_bytes"], found["granted_bytes"], found["tries"]) == (0, 0, 0)
    assert ended["allocs"] == 0


def test_a_slow_driver_ends_the_search_and_what_is_known_is_told(ask):
    done, ended = ask("--search-s", 0, pieces=(1000, 3000), slow=1)
    found = json.loads(done.stdout)
    assert (found["tries"], found["granted_bytes"]) == (1, 0)
    assert found["refused_bytes"] == found["asked_bytes"] == 4000 * MIB
    assert ended["held"] == 0


def test_memory_that_others_take_meanwhile_shows(ask):
    found = json.loads(ask(pieces=(2000,), moves=1)[0].stdout)
    assert found["free_bytes"] - found["free_after"] == 512 * MIB


def test_where_not_even_a_context_fits_memory_is_short(ask):
    done, _ = ask(pieces=(200, 200), context=300)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY (2)" in done.stderr


def test_where_there_is_no_driver_it_says_so(ask):
    env = {"LD_LIBRARY_PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        (sys.executable, "-I", "-S", str(workers.LARGEST_ALLOCATION)),
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("largest_allocation: ")


@pytest.mark.parametrize("options", [("--leave-bytes", -1), ("--search-s", "nan"), ("--bytes", 1)])
def test_bad_usage_is_told_from_a_bad_device(ask, options):
    done, ended = ask(*options)
    assert done.returncode == 2
    assert ended is None


def test_a_driver_that_does_not_answer_is_given_up_also_where_nobody_waits(tmp_path):
    line = (
        "import sys; sys.path.append(sys.argv[1]); import largest_allocation as program; "
        "program._SILENCE_S = 0.1; program.main(['--search-s', '0.1'])"
    )
    done = subprocess.run(
        (sys.executable, "-I", "-S", "-c", line, str(workers.LARGEST_ALLOCATION.parent)),
        env={**os.environ, **FakeDevice(tmp_path, hangs=1).env},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == -signal.SIGALRM
    assert done.stdout == ""
