"""How rules are found and read, and the wordings for want of memory, on the device and the host."""

from __future__ import annotations

import itertools
import re
import string

import pytest

from objectives.causes import CAUSES
from objectives.diagnosis.diagnosis import wanted_of_a_server, wanted_of_a_start
from objectives.diagnosis.rules.rule_book import (
    HOST,
    OUT_OF_DEVICE_MEMORY,
    OUT_OF_DEVICE_MEMORY_HINTS,
    QUIET_LEVELS,
    REFUSALS,
    SIZES,
    Rank,
    RuleBook,
    figures_of,
    rules,
)
from tests.objectives.diagnosis.failing_logs import CPU_KV, OOM, RACE, START, TOO_SMALL, V0_KV

BOOK = RuleBook(HOST, SIZES)


def gib(size):
    return round(size * (1 << 30))


def first(line, *, quiet=False):
    """The rule that names the cause of a line, as the reader of lines takes it."""
    fit = (rule for rule in BOOK.candidates(line.lower()) if rule.quiet or not quiet)
    return next((rule for rule in fit if rule.pattern.search(line)), None)


class TestRulesOfOneCause:
    def test_know_no_case_and_no_line_ends(self):
        (rule,) = rules("host_oom", ("No Room|FULL", r"no room.(?P<left>\d+) left"))
        assert rule.hints == ("no room", "full")
        assert rule.pattern.search("NO ROOM\n7 Left")["left"] == "7"

    def test_share_what_is_said_of_all(self):
        both = rules(
            "host_oom", ("a", "a"), ("b", "b"), rank=Rank.WEAK, start_only=True, quiet=True
        )
        assert [(r.cause, r.rank, r.start_only, r.quiet) for r in both] == [
            ("host_oom", Rank.WEAK, True, True)
        ] * 2

    def test_are_strong_loud_and_of_any_time_if_nothing_else_is_said(self):
        (rule,) = rules("host_oom", ("a", "a"))
        assert (rule.rank, rule.start_only, rule.quiet) == (Rank.STRONG, False, False)


class TestARuleBook:
    A, B = rules("host_oom", ("zebra", "a"), ("zebra|lion", "b"), rank=Rank.WEAK)
    (C,) = rules("host_oom", ("lion", "c"))
    (D,) = rules("port_in_use", ("errno 98", "d"))

    def test_gives_the_rules_that_a_line_has_a_hint_of(self):
        book = RuleBook((self.A, self.B), (self.C,))
        assert book.candidates("a zebra") == [self.A, self.B]
        assert book.candidates("nothing") == []

    def test_gives_them_by_rank_and_then_as_they_stand_each_once(self):
        book = RuleBook((self.A, self.B), (self.C,))
        assert book.candidates("a lion and a zebra") == [self.C, self.A, self.B]
        assert RuleBook((self.B, self.A)).candidates("zebra lion") == [self.B, self.A]

    def test_takes_no_number_for_another_that_looks_like_it(self):
        for order in (("errno 98", "errno 97"), ("errno 97", "errno 98")):
            book = RuleBook((self.A, self.D))
            found = {line: book.candidates(line) for line in order}
            assert found == {"errno 98": [self.D], "errno 97": []}
            assert book.candidates("errno 98 zebra") == [self.A, self.D][::-1]

    def test_says_the_same_of_a_line_however_often_it_is_asked(self):
        book = RuleBook((self.A, self.D))
        for n in (1, 22, 1, 22):
            assert book.candidates(f"zebra {n}") == [self.A]
            assert book.candidates(f"lion {n}") == []

    def test_remembers_so_many_lines_and_none_of_great_length(self):
        tracemalloc = pytest.importorskip("tracemalloc")
        book = RuleBook((self.A,))
        words = map("".join, itertools.product(string.ascii_lowercase, repeat=3))
        tracemalloc.start()
        for word in itertools.islice(words, 100):
            book.candidates(word * 400)
        long_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for word in itertools.islice(words, 3_000):
            book.candidates(word)
        tracemalloc.start()
        for word in itertools.islice(words, 1_000):
            book.candidates(word)
        more_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert long_bytes < 20_000  # of 120,000
        assert more_bytes < 20_000  # of 50,000


class TestFiguresOfAMatch:
    def of(self, pattern, text):
        return dict(figures_of(re.search(pattern, text)))

    @pytest.mark.parametrize(
        ("name", "text", "figure"),
        [
            ("free_gib", "1.5", ("free_bytes", 3 << 29)),
            ("left_gib", "-0.5", ("left_bytes", -(1 << 29))),
            ("free_gib", "8589934592", ("free_bytes", 8 << 30)),  # bytes already
            ("anon_rss_kib", "23068672", ("anon_rss_bytes", 22 << 30)),
            ("waited_ms", "1500", ("waited_s", 1.5)),
            ("waited_s", "600", ("waited_s", 600)),
            ("utilization", "0.9", ("utilization", 0.9)),
            ("port", "8000", ("port", 8_000)),
            ("offset", "-7", ("offset", -7)),
            ("version", "0.9.1", ("version", "0.9.1")),
            ("file", "config.json", ("file", "config.json")),
        ],
    )
    def test_are_in_bytes_and_seconds_or_as_they_are_printed(self, name, text, figure):
        found = self.of(rf"(?P<{name}>.+)", text)
        assert found == dict([figure])
        assert type(found[figure[0]]) is type(figure[1])

    def test_leave_out_what_the_line_does_not_print(self):
        assert self.of(r"a(?P<port>\d+)?(?P<host>b)", "ab") == {"host": "b"}


class TestVllmsOwnRefusals:
    @pytest.mark.parametrize(
        ("text", "cause", "figures"),
        [
            ("No available memory for the cache blocks. Try", "kv_cache_no_blocks", {}),
            (
                CPU_KV.format("9.1", "-0.42/1.56"),
                "kv_cache_no_blocks",
                {
                    "node": 0,
                    "free_bytes": gib(9.1),
                    "total_bytes": gib(15.6),
                    "left_bytes": gib(-0.42),
                    "budget_bytes": gib(1.56),
                },
            ),
            (
                CPU_KV.format("2.1", "8.0"),
                "kv_cache_no_blocks",
                {
                    "node": 0,
                    "free_bytes": gib(2.1),
                    "total_bytes": gib(15.6),
                    "left_bytes": gib(8),
                },
            ),
            (
                "Externally held weights on device cuda:1 (14.0/24.0 GiB) exceed the desired GPU"
                " memory utilization (0.5, 12.0 GiB).",
                "kv_cache_no_blocks",
                {
                    "device": "cuda:1",
                    "external_bytes": gib(14),
                    "total_bytes": gib(24),
                    "utilization": 0.5,
                    "budget_bytes": gib(12),
                },
            ),
            (
                TOO_SMALL,
                "kv_cache_too_small",
                {
                    "max_model_len": 32_768,
                    "needed_bytes": gib(1.75),
                    "available_bytes": gib(0.37),
                    "estimated_max_model_len": 6_976,
                },
            ),
            (
                "max seq len (131072), (16.00 GB KV cache is needed, which is larger than the"
                " available KV cache memory (7.20 GB). Try",
                "kv_cache_too_small",
                {
                    "max_model_len": 131_072,
                    "needed_bytes": gib(16),
                    "available_bytes": gib(7.2),
                },
            ),
            (
                f"{V0_KV} that can be stored in KV cache (2080). Try",
                "kv_cache_too_small",
                {"max_model_len": 8_192, "kv_cache_tokens": 2_080},
            ),
            (
                "max_num_seqs (256) exceeds available Mamba cache blocks (40).",
                "kv_cache_too_small",
                {"max_num_seqs": 256, "mamba_blocks": 40},
            ),
            (
                START.replace(" cuda:0", "").replace("GiB", "GB"),
                "gpu_memory_insufficient_at_start",
                {
                    "free_bytes": gib(4.1),
                    "total_bytes": gib(11.63),
                    "utilization": 0.9,
                    "requested_bytes": gib(10.47),
                },
            ),
            (
                "Available memory on node 1 (9.1/15.6 GiB) on startup is less than desired CPU"
                " memory utilization (0.92, 14.36 GiB).",
                "gpu_memory_insufficient_at_start",
                {
                    "node": 1,
                    "free_bytes": gib(9.1),
                    "total_bytes": gib(15.6),
                    "utilization": 0.92,
                    "requested_bytes": gib(14.36),
                },
            ),
            (
                RACE,
                "memory_profiling_race",
                {"initial_free_bytes": gib(8.1), "current_free_bytes": gib(9.2)},
            ),
            ("Error in memory profiling.", "memory_profiling_race", {}),
        ],
    )
    def test_have_a_cause_and_their_figures(self, text, cause, figures):
        rule, match = next(
            (rule, match) for rule in REFUSALS if (match := rule.pattern.search(text))
        )
        assert (rule.cause, rule.rank) == (cause, Rank.DECISIVE)
        assert dict(figures_of(match)) == figures
        assert any(hint in text.lower() for hint in rule.hints)

    @pytest.mark.parametrize(
        "text",
        [
            "Free memory on device (11.2/11.63 GiB) on startup. Desired GPU memory utilization is"
            " (0.5, 5.82 GiB).",
            "Available memory on node 0 (9.1/15.6 GiB) on startup. Desired",
            "Available KV cache memory: 3.2 GiB",
            "using max seq len (4096)",
        ],
    )
    def test_are_not_what_a_healthy_start_prints(self, text):
        assert not any(rule.pattern.search(text) for rule in REFUSALS)

    def test_are_all_for_want_of_memory(self):
        others = {rule.cause for rule in REFUSALS if not CAUSES[rule.cause].is_memory}
        assert others == {"memory_profiling_race"}


class TestAnAllocationThatADeviceRefused:
    @pytest.mark.parametrize(
        "text",
        [
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
            "torch.OutOfMemoryError: HIP out of memory.",
            "RuntimeError: XPU out of memory.",
            "RuntimeError: NPU out of memory.",
            "RuntimeError: MPS out of memory.",
            "RuntimeError: CUDA error: out of memory",
            "RuntimeError: HIP error: out of memory",
            "RuntimeError: CUDA driver error: out of memory",
            "torch.cuda.OutOfMemoryError",
            "cudaErrorMemoryAllocation: x",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "hipErrorOutOfMemory",
            "Cuda failure 2 'out of memory'",
            "Cuda failure 'out of memory'",
            "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
            "cudaMalloc failed: out of memory",
        ],
    )
    def test_is_known_in_the_words_of_every_maker(self, text):
        assert OUT_OF_DEVICE_MEMORY.search(text)
        assert any(hint in text.lower() for hint in OUT_OF_DEVICE_MEMORY_HINTS)

    @pytest.mark.parametrize(
        "text",
        [
            "Out of memory: Killed process 812 (python3)",
            "the host is out of memory",
            "ray.exceptions.OutOfMemoryErrors",
            "CUDA memory: 3.2 GiB",
            "CUBLAS_STATUS_EXECUTION_FAILED",
        ],
    )
    def test_is_not_one_of_the_host(self, text):
        assert not OUT_OF_DEVICE_MEMORY.search(text)

    def test_prints_its_figures_or_some_of_them_or_none(self):
        def figures(text):
            return OUT_OF_DEVICE_MEMORY.search(text).groupdict()

        whole = {
            "tried": "1.50 GiB",
            "total": "11.63 GiB",
            "free": "700.25 MiB",
            "own": "10.90 GiB",
        }
        none = dict.fromkeys(whole)
        assert figures(OOM) == whole
        assert figures("CUDA out of memory. Tried to allocate 2 MiB") == {**none, "tried": "2 MiB"}
        assert figures("CUDA error: out of memory") == none


HOST_LINES = (
    (
        "Out of memory: Killed process 812 (python3) total-vm:9kB, anon-rss:23068672kB, file-rss",
        "Killed process 812 (python3) at its own wish",
    ),
    ("python3 invoked oom-killer: gfp_mask=0x1", None),
    ("oom_reaper: reaped process 812 (python3)", "oom_reaper: reaped nothing"),
    ("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)", None),
    ("Last State: Terminated  Reason: OOMKilled", '"OOMKilled": false,'),
    ("slurmstepd: error: Detected 1 oom_kill event in StepId=4.0.", "no oom_kill event"),
    ("srun: error: box: task 0: Out Of Memory", "RuntimeError: out of memory, or so I believe"),
    ("Memory cgroup out of memory: Kill process 7 (x)", None),
    ("1 Workers (tasks / actors) killed due to memory pressure (OOM)", "due to memory pressure"),
    ("Task was killed due to the node running low on memory.", "we are running low on memory"),
    (
        "Memory on the node (IP: 10.0.0.2, ID: 5b) where the task ran was 30.5GB / 32.0GB (0.95),"
        " which exceeds the memory usage threshold of 0.95.",
        "Memory on the node: 32 GB",
    ),
    ("DefaultCPUAllocator: can't allocate memory: you tried", "I could allocate memory for all"),
    ("OSError: [Errno 12] Cannot allocate memory", "Cannot allocate memory to that argument"),
    ("RuntimeError: std::bad_alloc", "NotAMemoryError: x"),
    ("DataLoader worker (pid 9) is killed by signal: Killed.", "killed by signal: Terminated"),
    ("c++: fatal error: Killed signal terminated program cc1plus", "signal handlers installed"),
    ("oom-kill: task=python3,pid=812", "Killed process group of the client"),
    ("killed as a result of limit of /kubepods/pod1", "as a result of limit, 3 were left out"),
    ("./serve.sh: line 12:  4711 Killed                  vllm serve a/b", "Killed it, folks"),
    ("the container ended by 137, maybe OOM", "vroom, zoom"),
)
"""A line for every rule of the host, and a neighbour that says something else, if there is any."""


MORE_HOST_LINES = (
    "error: box: task 0: Out Of Memory, so the step ends",
    "ImportError: /x/y.so: error code 12 (Cannot allocate memory)",
    "mmap failed: Cannot allocate memory (12)",
    "MemoryError",
    "numpy.core._exceptions.MemoryError: Unable to allocate 9.00 GiB",
    "a process died due to signal 9, memory is short",
    "g++: fatal error: Killed signal 9",
    "maybe the OOM killer came",
    "systemd-oomd has killed vllm.service",
    "killed by the kernel's OOM handler",
)
"""Other wordings that the same rules know."""


class TestTheHost:
    @pytest.mark.parametrize("line", [*(line for line, _ in HOST_LINES), *MORE_HOST_LINES])
    def test_is_out_of_memory_in_the_words_of_many(self, line):
        assert first(line).cause == "host_oom"

    @pytest.mark.parametrize("line", [other for _, other in HOST_LINES if other])
    def test_is_not_where_the_same_words_say_something_else(self, line):
        assert BOOK.candidates(line.lower()), "a neighbour has a hint"
        assert first(line) is None

    @pytest.mark.parametrize(
        ("line", "figures"),
        [
            (HOST_LINES[0][0], {"pid": 812, "process": "python3", "anon_rss_bytes": 22 << 30}),
            (HOST_LINES[1][0], {"process": "python3"}),
            (HOST_LINES[3][0], {"constraint": "CONSTRAINT_MEMCG"}),
            (HOST_LINES[5][0], {"oom_kills": 1}),
            (HOST_LINES[8][0], {"workers": 1}),
            (HOST_LINES[10][0], {"used_bytes": gib(30.5), "total_bytes": gib(32)}),
            (HOST_LINES[14][0], {"pid": 9}),
            (HOST_LINES[18][0], {"pid": 4711}),
        ],
    )
    def test_prints_whom_and_how_much(self, line, figures):
        assert dict(figures_of(first(line).pattern.search(line))) == figures

    def test_s_shell_weighs_less_than_its_kernel(self):
        weights = {line: first(line).rank for line, _ in HOST_LINES}
        outer = {line for line, rank in weights.items() if rank is Rank.OUTER}
        assert outer == {HOST_LINES[18][0], HOST_LINES[19][0]}
        assert set(weights.values()) == {Rank.STRONG, Rank.OUTER}
        assert first("Killed").rank is Rank.OUTER

    @pytest.mark.parametrize(
        "line",
        [
            HOST_LINES[0][0],
            HOST_LINES[3][0],
            HOST_LINES[8][0],
            HOST_LINES[17][0],
        ],
    )
    def test_may_say_it_quietly(self, line):
        assert first(line, quiet=True).cause == "host_oom"
        assert first(HOST_LINES[4][0], quiet=True) is None

    def test_has_no_rule_without_a_line(self):
        met = {id(first(line)) for line, _ in HOST_LINES}
        met |= {id(first(line, quiet=True)) for line, _ in HOST_LINES}
        assert [rule.pattern.pattern for rule in HOST if id(rule) not in met] == []


class TestSizes:
    @pytest.mark.parametrize(
        ("line", "cause", "figures"),
        [
            (
                "1.75 GiB KV cache is needed, which is larger than the available KV cache memory"
                " (0.37 GiB)",
                "kv_cache_too_small",
                {"needed_bytes": gib(1.75), "available_bytes": gib(0.37)},
            ),
            ("larger than the available KV cache memory", "kv_cache_too_small", {}),
            (
                "is larger than the maximum number of tokens that can be stored in KV cache",
                "kv_cache_too_small",
                {},
            ),
            (
                "which is less than desired GPU memory utilization",
                "gpu_memory_insufficient_at_start",
                {},
            ),
            (
                "Available KV cache memory: -0.79 GiB",
                "kv_cache_no_blocks",
                {"available_bytes": gib(-0.79)},
            ),
            ("# GPU blocks: 0, # CPU blocks: 512", "kv_cache_no_blocks", {"gpu_blocks": 0}),
            (
                "the rest of the memory reserved for KV Cache is -1.50GiB.",
                "kv_cache_no_blocks",
                {"available_bytes": gib(-1.5)},
            ),
        ],
    )
    def test_that_leave_no_room_imply_a_cause(self, line, cause, figures):
        rule = first(line)
        assert (rule.cause, rule.rank) == (cause, Rank.WEAK)
        assert dict(figures_of(rule.pattern.search(line))) == figures
        assert rule.quiet is (cause == "kv_cache_no_blocks")

    @pytest.mark.parametrize(
        "line",
        [
            "Available KV cache memory: 0.79 GiB",
            "# GPU blocks: 10, # CPU blocks: 512",
            "# GPU blocks: 100, # CPU blocks: 0",
            "the rest of the memory reserved for KV Cache is 1.50GiB.",
            "1.75 GiB KV cache is needed, and 3 GiB are there",
            "it may be less than desired",
        ],
    )
    def test_that_leave_some_imply_none(self, line):
        assert first(line) is None


def test_every_rule_names_a_cause_and_hints_in_lower_case():
    for rule in (*REFUSALS, *SIZES, *HOST):
        assert "log" in CAUSES[rule.cause].told_by
        assert all(hint and hint == hint.lower() for hint in rule.hints)


def test_a_level_up_to_a_warning_makes_light_of_a_line():
    assert {"DEBUG", "INFO", "WARNING"} == QUIET_LEVELS


@pytest.mark.parametrize("line", [*(line for line, _ in HOST_LINES), *MORE_HOST_LINES])
def test_no_line_that_a_rule_knows_is_passed_over_unread(line):
    assert wanted_of_a_start(line)
    assert wanted_of_a_server(line)
