import json

import pytest

from objectives.device.state import Activity
from objectives.evidence import TrialEvidence
from objectives.telemetry.record import (
    SAMPLES_KEPT,
    CpuReading,
    DeviceSample,
    TelemetryRecord,
    thinned,
)

GIB = 1 << 30


def sample(time_s, used_gib=1.0, *, total_gib=10.0, tenants=None, cpu=None, **activity):
    return DeviceSample(
        time_s=time_s,
        total_bytes=int(total_gib * GIB),
        free_bytes=int((total_gib - used_gib) * GIB),
        by_tenant={} if tenants is None else tenants,
        activity=Activity(**activity),
        cpu=cpu,
    )


def cpu(busy_s, ours_s, *, stolen_s=0.0, pressure=None):
    return CpuReading(busy_s=busy_s, stolen_s=stolen_s, ours_s=ours_s, cpus=2, pressure=pressure)


def record(*samples, kind="cuda", **more):
    return TelemetryRecord(kind=kind, interval_s=0.25, samples=samples, **more)


def test_peaks_are_those_of_the_worst_moment():
    seen = record(sample(0, 2), sample(1, 7), sample(2, 3))
    assert seen.peak_used_bytes == 7 * GIB
    assert seen.min_free_bytes == 3 * GIB
    assert seen.free_memory_mb == pytest.approx(3 * 1024)
    assert seen.gpu_utilization == pytest.approx(70)


def test_each_tenant_has_its_own_peak_and_the_rest_is_other():
    seen = record(
        sample(0, 4, tenants={"vllm": 2 * GIB, "whisper": GIB}),
        sample(1, 6, tenants={"vllm": GIB, "whisper": 2 * GIB}),
    )
    assert seen.tenants_bytes == {"vllm": 2 * GIB, "whisper": 2 * GIB, "other": 3 * GIB}


def test_what_a_tenant_holds_is_unknown_if_the_driver_never_told():
    seen = record(sample(0, 4, tenants={"vllm": None, "whisper": GIB}))
    assert seen.tenants_bytes == {"vllm": None, "whisper": GIB, "other": None}


def test_utilisation_of_a_gpu_is_its_own_word():
    seen = record(sample(0, utilisation=0.2), sample(1), sample(2, utilisation=0.6))
    assert seen.utilisation == [(0, 0.2), (2, 0.6)]
    assert seen.summary().utilisation_mean == pytest.approx(0.4)
    assert seen.summary().utilisation_peak == pytest.approx(0.6)


def test_utilisation_of_a_cpu_is_what_all_its_cores_did():
    seen = record(sample(0, cpu=cpu(10, 0)), sample(0.5), sample(1, cpu=cpu(11, 0.5)), kind="cpu")
    assert seen.utilisation == [(1, 0.5)]


def test_foreign_is_what_neither_we_nor_our_tenants_used():
    seen = record(
        sample(0, cpu=cpu(100, 5)),
        sample(5),
        sample(10, cpu=cpu(116, 17, stolen_s=1, pressure=0.25)),
    )
    assert seen.busy_share == pytest.approx(16 / 20)
    assert seen.foreign_busy_share == pytest.approx(4 / 20)
    assert seen.stolen_share == pytest.approx(1 / 20)
    assert seen.cpu_pressure == [0.25]
    assert seen.doubts() == [
        "other programs used 20% of the machine's CPU time",
        "nobody looked at the device's memory for 5.0 s",
    ]


def test_rounding_of_the_kernels_ticks_makes_no_negative_share():
    seen = record(sample(0, cpu=cpu(0, 0)), sample(1, cpu=cpu(1.0, 1.02)))
    assert seen.foreign_busy_share == 0


def test_one_reading_of_the_cpus_tells_no_share():
    assert record(sample(0, cpu=cpu(1, 1))).foreign_busy_share is None


def test_energy_is_the_difference_between_the_ends():
    seen = record(sample(0, energy_j=100.0), sample(1), sample(2, energy_j=350.0))
    assert seen.energy_j == pytest.approx(250)
    assert record(sample(0)).energy_j is None


def test_accidental_slowdowns_are_doubts_and_a_power_cap_is_a_fact():
    seen = record(
        sample(0, slowed_by=("power_cap",)), sample(0.5, slowed_by=("power_cap", "thermal"))
    )
    assert seen.slowed_share == {"power_cap": 1.0, "thermal": 0.5}
    assert seen.doubts() == ["the device was slowed down (thermal) in 50% of the samples"]


def test_a_quiet_device_leaves_no_doubt():
    quiet = record(sample(0, cpu=cpu(0, 0)), sample(0.3), sample(0.6, cpu=cpu(1.0, 0.95)))
    assert quiet.doubts() == []


def test_kills_a_changed_size_and_stolen_time_are_doubts():
    seen = record(
        sample(0, total_gib=4, cpu=cpu(0, 0)),
        sample(0.5, total_gib=5, cpu=cpu(0.5, 0.5, stolen_s=0.1)),
        oom_kills=1,
    )
    assert seen.doubts() == [
        "other virtual machines took 10% of the machine's CPU time",
        "the kernel killed 1 processes for memory",
        "the device's memory changed its size meanwhile",
    ]


def test_what_is_kept_is_json_and_what_was_not_told_is_absent():
    summary = record(sample(0, 4, tenants={"vllm": GIB})).summary()
    attrs = TrialEvidence(telemetry=summary).to_attrs()
    facts = json.loads(json.dumps(attrs, allow_nan=False))["telemetry"]
    assert facts["peak_used_bytes"] == 4 * GIB
    assert facts["tenants_bytes"] == {"vllm": GIB, "other": 3 * GIB}
    assert not {"power_mean_w", "foreign_busy_share", "oom_kills"} & set(facts)
    assert facts["samples"] == [{"time_s": 0, "used_bytes": 4 * GIB, "tenants": {"vllm": GIB}}]


def test_a_tenant_of_whom_nobody_tells_is_kept_as_unknown():
    summary = record(sample(0, 4, tenants={"vllm": None})).summary()
    attrs = TrialEvidence(telemetry=summary, tenants_bytes=summary.tenants_bytes).to_attrs()
    assert attrs["tenants_bytes"] == attrs["telemetry"]["tenants_bytes"]
    assert attrs["tenants_bytes"] == {"vllm": None, "other": None}
    assert attrs["telemetry"]["samples"][0]["tenants"] == {"vllm": None}


def test_of_a_long_trial_enough_is_kept_for_a_picture():
    long = record(*(sample(i, 9 if i == 777 else 1 + (i % 2)) for i in range(5000)))
    kept = long.summary().samples
    assert len(kept) <= SAMPLES_KEPT
    assert max(point.used_bytes for point in kept) == 9 * GIB
    assert len(long.kept(20)) <= 20
    assert long.summary().looks == 5000


def test_thinning_keeps_both_ends_and_every_peak():
    samples = [sample(i, 9 if i == 777 else 1 + (i % 2)) for i in range(5000)]
    kept = thinned(samples, 240)
    assert len(kept) <= 240
    assert (kept[0], kept[-1]) == (samples[0], samples[-1])
    assert samples[777] in kept
    assert [one.time_s for one in kept] == sorted(one.time_s for one in kept)


def test_few_samples_are_all_kept():
    samples = [sample(i) for i in range(5)]
    assert thinned(samples, 240) == samples
