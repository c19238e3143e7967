"""Wordings of what is not the server's: tools that build its kernels, and where it is installed."""

from __future__ import annotations

from objectives.diagnosis.rules.rule_book import Rank, rules

_COMPILER = (
    r"(?:[\w-]+-)?(?:gcc|g\+\+|c\+\+|clang(?:\+\+)?|cc|cc1plus|hipcc|nvcc|ptxas|cicc|ninja|cmake)"
)
_TOOL = rf"['\"`‘]?(?:[\w./+-]*/)?(?P<tool>{_COMPILER})(?:-\d+)?(?![\w+])"
_MISSING = r"(?:command )?(?:was |is )?not (?:be )?(?:found|installed|available)"
BUILD_TOOLS = (
    *rules(
        "build_tools",
        (
            "no such file|unable to execute|cannot execute|not find|find|not locate|command",
            rf"(?:No such file or directory: |(?:unable to|cannot) execute |error: command"
            rf" |(?:Could not|Cannot|Can't|Unable to|Failed to) (?:find|locate|run|get|execute)"
            rf" (?:a |the )?(?:working )?){_TOOL}(?!\.\w)",
        ),
        (
            ": not found|not installed|not available|not found",
            rf"(?:^|[\s:/'`]){_TOOL}['`:]* {_MISSING}",
        ),
        (
            "compiler",
            r"\b(?:Failed to find|No working|Could not find|Cannot find|Unable to find|No suitable"
            r"|No supported|No) (?:a )?(?:(?:C|C\+\+|C/C\+\+|CUDA|HIP|host) )?compiler\b"
            r"|InvalidCxxCompiler|compiler (?:was |is )?not found",
        ),
        ("ninja is required", r"(?P<tool>Ninja) is required to load"),
        ("no module named 'ninja", r"No module named '?(?P<tool>ninja)"),
        (
            "cuda_home|cudatoolkit",
            r"CUDA_HOME (?:environment variable )?(?:is|was) not set|CUDA_HOME.{0,60}(?:does not"
            r"|doesn't) exist|(?:find|determine|locate).{0,20}(?:CUDA_HOME|CUDAToolkit)"
            r"|cuda_home='[^']*' doesn't exist",
        ),
        (
            "cuda",
            r"(?:requires?\b|\bneeds?\b|supported (?:only )?(?:with|on|by)\b|\bonly (?:with|on)\b"
            r"|at least|minimum).{0,24}?\bCUDA(?: toolkit)?(?: version)?:? ?(?:>=?|≥|at least)? ?v?"
            r"(?P<needed_cuda>\d+\.\d+)",
        ),
        (
            "is required|or higher|or newer|or later",
            r"CUDA(?: toolkit)?(?: version)? ?(?:>=? ?)?(?P<needed_cuda>\d+\.\d+)\+? ?(?:or"
            r" (?:higher|newer|later|above) )?(?:is|are) required",
        ),
        (
            "nvcc",
            r"\b(?P<tool>nvcc) fatal|(?P<needed>nvcc)(?: compiler)?(?: version)?.{0,30}?(?:should"
            r" be|must"
            r" be|is too old|or (?:higher|newer|later))|requires? (?:the )?nvcc",
        ),
        (
            "mismatches the version",
            r"detected CUDA version \(?(?P<cuda>[\d.]+)\)?.{0,60}mismatches the version",
        ),
        (
            "fatal error: ",
            r"fatal error: '?(?P<header>[\w./+-]+)'?(?:: No such file| file not found)",
        ),
        (
            "cannot find -l|unable to find library",
            r"(?:cannot find|unable to find library) (?P<library>-l[\w+.-]+)",
        ),
        ("unsupported gnu|unsupported clang", r"unsupported (?:GNU|clang) version"),
        (
            "gpu-name|gpu architecture|gpu-architecture|gpu-arch",
            r"Value '(?P<arch>\w+)' is not defined for option 'gpu-\w+'"
            r"|Unsupported gpu architecture '(?P<architecture>\w+)'",
        ),
        ("unsupported .version", r"Unsupported \.version (?P<ptx>[\d.]+)"),
        ("unrecognized command", rf"{_TOOL}: error: unrecogni[sz]ed command"),
    ),
    *rules(
        "build_tools",
        (
            "error",
            r"(?:^|\s)\S+\.(?:cu|cuh|c|cc|cpp|cxx|h|hpp|cuda)(?:\(\d+\)|:\d+(?::\d+)?): (?:fatal"
            r" )?error[: ]",
        ),
        ("ptxas", r"\bptxas\b.{0,200}?(?:fatal|\berror\b)"),
        ("returned non-zero|calledprocesserror", rf"Command '?\[{_TOOL}"),
        ("cppcompileerror", r"CppCompileError"),
        ("ld returned", r"ld returned \d+ exit status"),
        rank=Rank.WEAK,
    ),
    *rules(
        "build_tools",
        ("ninja build failed|ninja: build stopped", r"Ninja build failed|ninja: build stopped"),
        ("error building extension", r"Error building extension"),
        rank=Rank.WRAPPER,
    ),
)
"""A compiler, a header, or a part of the CUDA toolkit that kernels are built with at run time."""

_SYSTEM_FILE = r"/dev/(?!shm)\S*|/proc\b\S*|/sys\b\S*"
ENVIRONMENT = (
    *rules(
        "environment",
        (
            "no space left|disk quota|read-only file|disk space|disk is full",
            r"No space left on device|Disk quota exceeded|Read-only file system"
            r"|(?:Not enough|insufficient|not have enough) (?:free )?disk space|disk is full",
        ),
        (
            "getpw|user exists|user id",
            r"getpw\w+\(\): \w+ not found|No user exists for uid|cannot find name for user ID",
        ),
        ("too many open files", r"Too many open files"),
        (
            "new thread|temporarily unavailable|pthread_create",
            r"can't start new thread|pthread_create failed|(?:fork|clone|\[Errno"
            r" 11\]).{0,24}Resource temporarily unavailable",
        ),
        (
            "input/output error|stale|transport endpoint",
            r"Input/output error|Stale (?:NFS )?file handle|Transport endpoint is not connected",
        ),
        (
            "ffmpeg",
            r"(?:No such file or directory: |cannot find |find )'?(?P<tool>ffmpeg)\b"
            r"|(?P<program>ffmpeg): (?:command )?not found",
        ),
    ),
    *rules(
        "environment",
        (
            "permission|errno 1]",
            r"PermissionError\b.{0,24}?(?:(?:at |: )'?(?P<path>/[^\s':]*))?(?=[\s':]|$)|Permission"
            r" denied"
            r"|\[Errno 1\] Operation not permitted|(?:is not|not) writ(?:e?able)\b|no write"
            r" (?:access|permission)",
        ),
        ("undefined symbol", r"undefined symbol: ?(?P<symbol>\w+)"),
        (
            "not found",
            r"version [`'\"](?P<symbol>(?:GLIBC|GLIBCXX|CXXABI|GCC|OPENSSL|NCCL)\w*_[\d.]+)['\"]"
            r" not found",
        ),
        (
            "cannot open shared",
            r"(?<!\(')\b(?P<library>lib[\w+.-]+\.so[.\d]*): cannot open shared object file",
        ),
        (
            "elf|exec format|executable stack|static tls|file too short",
            r"invalid ELF header|wrong ELF class|Exec format error|executable stack|static TLS"
            r" block|file too short",
        ),
        (
            "numpy",
            r"compiled using NumPy 1|numpy\.dtype size changed|numpy\S* failed to import|Numba"
            r" needs NumPy|_ARRAY_API not found",
        ),
        (
            "operator|custom c++ ops",
            r"operator '?\w+::\w+'? does not exist|Couldn't load custom C\+\+ ops",
        ),
        ("_opnamespace", r"'_OpNamespace' '\w+' object has no attribute '(?P<operator>\w+)'"),
        ("no module named", r"No module named '?(?!transformers_modules)(?P<module>[\w.]+)"),
        (
            "packagenotfound|distributionnotfound|versionconflict|normal functioning",
            r"PackageNotFoundError|DistributionNotFound|VersionConflict|required for a normal"
            r" functioning",
        ),
        ("dll load failed", r"DLL load failed"),
        start_only=True,
    ),
    *rules(
        "environment",
        (
            "cannot import name",
            r"cannot import name '(?P<name>\w+)' from (?:partially initialized module"
            r" )?'(?P<module>[\w.]+)'",
        ),
        (
            "has no attribute",
            r"AttributeError: (?:partially initialized )?module '(?P<module>[\w.]+)' has no"
            r" attribute",
        ),
        rank=Rank.WEAK,
        start_only=True,
    ),
)
"""The disk, the rights, the user, the limits, or what is installed does not fit together."""
