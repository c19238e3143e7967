import json

from objectives.device.state import Activity, Device, DeviceState
from objectives.evidence import TrialEvidence


class Plain(Device):
    """A device that knows no more than it must."""

    kind = "cpu"
    name = uuid = "plain"
    index = None
    total_bytes = 10

    def read(self):
        return DeviceState(total_bytes=10, free_bytes=4, used_bytes=6)

    def describe(self):
        return {}

    def environment(self):
        return {}


def stored(state):
    """A state as it stands on a trial."""
    return json.loads(json.dumps(TrialEvidence(device_state=state).to_attrs()))["device_state"]


def test_a_state_can_be_stored_and_leaves_out_what_is_not_known():
    state = DeviceState(total_bytes=10, free_bytes=4, used_bytes=6)
    facts = stored(state)
    assert facts.pop("by_pid", {}) == {}
    assert facts == {"total_bytes": 10, "free_bytes": 4, "used_bytes": 6}


def test_a_state_can_be_stored_with_its_processes():
    state = DeviceState(
        total_bytes=10, free_bytes=4, used_bytes=6, reserved_bytes=1, by_pid={9: None, 7: 3}
    )
    facts = stored(state)
    assert facts["by_pid"] == {"7": 3, "9": None}
    assert facts["reserved_bytes"] == 1


def test_most_devices_have_their_size_from_the_start():
    before, after = Plain().settle()
    assert before == after == Plain().read()


def test_a_device_that_tells_nothing_of_its_activity():
    assert Plain().activity() == Activity()
