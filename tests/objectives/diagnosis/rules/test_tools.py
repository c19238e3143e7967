"""Each wording of a missing tool or a broken machine names it, and what sounds like it does not."""

from __future__ import annotations

import pytest

from objectives.diagnosis.diagnosis import wanted_of_a_server, wanted_of_a_start
from objectives.diagnosis.rules.rule_book import Rank, RuleBook, figures_of
from objectives.diagnosis.rules.tools import BUILD_TOOLS, ENVIRONMENT
from tests.objectives.diagnosis.rules.readings import first, unmet

RULES = (*BUILD_TOOLS, *ENVIRONMENT)
BOOK = RuleBook(BUILD_TOOLS, ENVIRONMENT)

TOOLS = (
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/usr/local/cuda/bin/nvcc'",
        "FileNotFoundError: [Errno 2] No such file or directory: 'cc.json'",
    ),
    ("/bin/sh: 1: /usr/local/cuda/bin/nvcc: not found", "the zebra was not found"),
    ("RuntimeError: Failed to find C compiler. Please specify via CC", "the C compiler: gcc 13"),
    ("RuntimeError: Ninja is required to load C++ extensions", None),
    ("ModuleNotFoundError: No module named 'ninja'", None),
    ("OSError: CUDA_HOME environment variable is not set.", "CUDA_HOME: /usr/local/cuda"),
    (
        "RuntimeError: SM 12.x requires CUDA >= 12.9",
        "ValueError: fp8 requires a CUDA compute capability of 8.9",
    ),
    ("RuntimeError: CUDA 12.8 or newer is required", "one of 12.8 or newer"),
    ("RuntimeError: nvcc version should be at least 12.3", "nvcc: 12.8"),
    ("The detected CUDA version (11.8) mismatches the version that was used", None),
    ("main.c:5:10: fatal error: Python.h: No such file or directory", "fatal error: zebra"),
    ("/usr/bin/ld: cannot find -lcuda: No such file", "unable to find library books"),
    ("#error -- unsupported GNU version! gcc versions later than 13", None),
    (
        "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
        "option 'gpu-name' was taken",
    ),
    ("ptxas x.ptx, line 5; fatal: Unsupported .version 8.7; current version is '8.4'", None),
    ("g++: error: unrecognized command-line option '-std=c++20'", None),
    ('/srv/x/kernel.cu(12): error: identifier "zebra" is undefined', "x.cu has no error"),
    ("ptxas error   : zebra", "ptxas info: 32 registers"),
    (
        "CalledProcessError: Command '['/usr/bin/gcc', 'x.c']' returned non-zero exit status 1.",
        None,
    ),
    ("torch._inductor.exc.CppCompileError: x", None),
    ("collect2: error: ld returned 1 exit status", None),
    ("RuntimeError: Ninja build failed. Ninja output:", None),
    ("RuntimeError: Error building extension 'sampling'", None),
)
MACHINE = (
    ("OSError: [Errno 28] No space left on device", "disk space: 12 GB"),
    ("PermissionError: [Errno 13] Permission denied: '/.cache'", "the permission is there"),
    ("KeyError: 'getpwuid(): uid not found: 1001'", "getpwuid() is 0"),
    ("OSError: [Errno 24] Too many open files", None),
    ("RuntimeError: can't start new thread", "a new thread is there"),
    ("OSError: [Errno 5] Input/output error", "stale news"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'ffmpeg'", "ffmpeg: 6.1"),
    ("ImportError: /x/_C.abi3.so: undefined symbol: _ZN3c106SymIntEv", None),
    ("ImportError: libstdc++.so.6: version `GLIBCXX_3.4.32' not found", "not found: zebra"),
    (
        "ImportError: libmpi.so.40: cannot open shared object file: No such file",
        "ImportError('libmpi.so.40: cannot open shared object file')",
    ),
    ("OSError: /x.so: invalid ELF header", "the device itself"),
    ("ImportError: numpy.core.multiarray failed to import", "numpy 2.3"),
    ("RuntimeError: operator torchvision::nms does not exist", "an operator of the machine"),
    ("AttributeError: '_OpNamespace' '_C' object has no attribute 'rms_norm'", None),
    (
        "ModuleNotFoundError: No module named 'zebra'",
        "ModuleNotFoundError: No module named 'transformers_modules.x'",
    ),
    ("importlib.metadata.PackageNotFoundError: x", None),
    ("ImportError: DLL load failed while importing x", None),
    ("ImportError: cannot import name 'zebra' from 'lion.den' (/x/y.py)", None),
    ("AttributeError: module 'torch' has no attribute 'zebra'", "object has no attribute 'x'"),
)
CASES = (
    *(("build_tools", *row) for row in TOOLS),
    *(("environment", *row) for row in MACHINE),
)
"""Cause, a line, and a neighbour with a hint of the same rule that says something else."""
LINES = [line for _, line, _ in CASES]


@pytest.mark.parametrize(("cause", "line"), [case[:2] for case in CASES])
def test_a_line_of_its_kind_has_the_cause(cause, line):
    assert first(BOOK, line).cause == cause


@pytest.mark.parametrize("neighbour", [case[2] for case in CASES if case[2]])
def test_a_neighbour_of_it_has_none(neighbour):
    assert BOOK.candidates(neighbour.lower()), "no hint: this would prove nothing"
    assert first(BOOK, neighbour) is None


def test_every_rule_has_a_line():
    assert [rule.pattern.pattern for rule in unmet(RULES, BOOK, LINES)] == []


@pytest.mark.parametrize("line", [case[1] for case in CASES])
def test_no_line_that_a_rule_knows_is_passed_over_unread(line):
    assert wanted_of_a_start(line)
    assert first(BOOK, line).start_only or wanted_of_a_server(line)


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        (TOOLS[0][0], {"tool": "nvcc"}),
        (TOOLS[6][0], {"needed_cuda": 12.9}),
        (TOOLS[9][0], {"cuda": 11.8}),
        (TOOLS[10][0], {"header": "Python.h"}),
        (TOOLS[13][0], {"arch": "sm_121a"}),
        (MACHINE[9][0], {"library": "libmpi.so.40"}),
        (MACHINE[14][0], {"module": "zebra"}),
    ],
)
def test_a_line_gives_its_figures(line, figures):
    assert dict(figures_of(first(BOOK, line).pattern.search(line))) == figures


def test_what_calls_a_compiler_never_wins_over_the_compiler():
    wrappers = {line for _, line, _ in CASES if first(BOOK, line).rank is Rank.WRAPPER}
    assert wrappers == {row[0] for row in TOOLS[-2:]}
    assert {first(BOOK, line).rank for line, _ in TOOLS[:16]} == {Rank.STRONG}
