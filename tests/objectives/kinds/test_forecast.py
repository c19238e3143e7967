"""What is known of a server's memory where its kind adds nothing, and the device at that time."""

from dataclasses import replace

import pytest

from objectives.device.state import DeviceState
from objectives.evidence import PredictedMemory
from objectives.kinds.forecast import Forecast, Moment
from objectives.memory.calibration import Calibration
from objectives.memory.estimate import given
from objectives.vllm.startup_log import StartupFacts

GIB = 1 << 30
CARD = DeviceState(
    total_bytes=int(11.63 * GIB), free_bytes=int(10.4 * GIB), used_bytes=int(1.23 * GIB)
)
FACTS = StartupFacts(available_kv_bytes=GIB, device_total_bytes=24 * GIB)
NOTHING_KNOWN = Calibration()


def at(state=CARD, **more):
    """A card on which nothing was ever started."""
    usual = {"kind": "cuda", "uuid": "GPU-1", "calibration": NOTHING_KNOWN}
    return Moment(state=state, **{**usual, **more})


class TestTheDeviceNow:
    def test_is_whole_and_free_as_it_was_read(self):
        assert (at().total_bytes, at().free_bytes) == (CARD.total_bytes, CARD.free_bytes)

    @pytest.mark.parametrize("reserved", [None, 0, GIB // 4])
    def test_has_no_room_where_its_driver_reserves_some(self, reserved):
        state = DeviceState(
            total_bytes=12 * GIB, free_bytes=10 * GIB, used_bytes=2 * GIB, reserved_bytes=reserved
        )
        assert at(state).total_bytes == 12 * GIB - (reserved or 0)
        assert at(state).free_bytes == 10 * GIB, "what is reserved is not free anyway"

    def test_is_as_large_as_torch_called_it_where_it_was_asked(self):
        known = replace(CARD, reserved_bytes=GIB, cuda_total_bytes=11 * GIB)
        assert at(known).total_bytes == 11 * GIB

    def test_has_less_free_once_neighbours_are_there_and_may_have_less_than_nothing(self):
        assert at(coming_bytes=GIB).free_bytes == CARD.free_bytes - GIB
        assert at(coming_bytes=20 * GIB).free_bytes < 0


class TestAForecastOfAKindThatSaysNoMore:
    @pytest.mark.parametrize("forecast", [Forecast(), Forecast(held=given(GIB, "its file"))])
    def test_is_never_moved_or_surprised_and_learns_nothing(self, forecast):
        assert forecast.moved(FACTS) is None
        assert forecast.surprise(FACTS) is None
        assert forecast.learn(NOTHING_KNOWN, FACTS) is NOTHING_KNOWN
        assert forecast.learn_peak(NOTHING_KNOWN, GIB) is NOTHING_KNOWN

    def test_is_kept_as_what_it_will_hold_and_where_that_is_from(self):
        kept = Forecast(held=given(GIB, "its file")).stored()
        assert kept == PredictedMemory(held_bytes=GIB, held_source="given")

    def test_is_kept_empty_where_nothing_is_known(self):
        assert Forecast(doubts=("nobody knows",)).stored() == PredictedMemory()
