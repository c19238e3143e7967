"""Each wording of what stops a start names its cause, and what sounds like it does not."""

from __future__ import annotations

import pytest

from objectives.diagnosis.diagnosis import wanted_of_a_server, wanted_of_a_start
from objectives.diagnosis.rules.rule_book import Rank, RuleBook, figures_of
from objectives.diagnosis.rules.start import (
    ARCHITECTURE,
    ARGPARSE,
    ARGUMENTS,
    DISTRIBUTED,
    HARMLESS,
    HUNG,
    MODEL,
    PORT,
    SOURCE_CODE,
)
from tests.objectives.diagnosis.rules.readings import first, unmet

TABLES = (PORT, DISTRIBUTED, MODEL, ARCHITECTURE, ARGUMENTS, HUNG)
RULES = tuple(rule for table in TABLES for rule in table)
BOOK = RuleBook(*TABLES)

PORTS = (
    (
        "[Errno 98] error while attempting to bind on address ('::', 8000): address already in use",
        "[Errno 98] something else",
    ),
    ("zmq.error.ZMQError: Address already in use (addr='tcp://x')", "Address already in use?"),
    ("Error: listen EADDRINUSE: address", "it was EADDRINUSE"),
    ("RuntimeError: port 8000 is already being used", "port 8000 is already open"),
    ("Bind for 0.0.0.0:8000 failed: port is already allocated", "the port is already known"),
)
RANKS = (
    ("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO)", None),
    ("ncclInternalError: Internal check failed.", "ncclInternal checks passed"),
    ("RuntimeError: RCCL error in x", None),
    ("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)", "Watchdog caught nothing"),
    ("torch.distributed.DistNetworkError: x", "catch no NotDistNetworkErrors"),
    ("RuntimeError: Gloo connectFullMesh failed with x", "Gloo is the backend"),
    ("The client socket has timed out after 600s while trying", None),
    (
        "Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
        "2/2 clients joined.",
    ),
    ("RuntimeError: wait timeout after 300000ms, keys: /a", "wait timeout after long"),
    (
        "Error: Cannot provide a placement group requiring 8 GPUs within 1800 seconds.",
        "INFO Created placement group",
    ),
    ("error: retrieving ncclUniqueId from [0]", "ncclUniqueId: x"),
    ("ValueError: Ray does not allocate any GPUs on the driver node", None),
    ("CUDA error: peer access is not supported between these two devices", "peer access is on"),
    ("Failed: Cuda error /x/csrc/custom_all_reduce.cu:455", "building custom_all_reduce.cu"),
    ("RuntimeError: Socket Timeout", "socket timeout: 600 s"),
    (
        "ConnectionError: Could not find any running Ray instance.",
        "connected to a running Ray instance",
    ),
    (
        "node 5b at 10.0.0.2 has been marked dead because it missed too many (OOM, preempted)",
        "marked dead: none",
    ),
    ("The server socket has failed to connect to any network address", "failed to connect once"),
    ("RuntimeError: Every node should have a unique IP address.", "a unique IP address"),
    ("ValueError: Current node has no GPU available.", "current node has no neighbours"),
    ("RuntimeError: Barrier timed out after 30.5 seconds", "a barrier was passed"),
    ("Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)", None),
    ("RuntimeError: [gloo/transport/tcp/pair.cc:525] Connection closed by peer [10.0.0.1]", None),
    ("INFO 03-01 10:00:00 Waiting for creating a placement group of specs for 130 seconds", None),
    ("Fatal Python error: Bus error", None),
    ("box:1:1 [0] init.cc:426 NCCL WARN Cuda failure 'operation not supported'", "NCCL WARN: off"),
    ("ncclInvalidUsage: Duplicate GPU detected : rank 0 and rank 1", None),
)
MODELS = (
    ("OSError: You are trying to access a gated repo.", None),
    ("huggingface_hub.errors.GatedRepoError: x", "the class GatedRepo"),
    ("Error: Repository Not Found for url: https://huggingface.co/a", "page not found for URL"),
    ("HTTPError: 401 Client Error: Unauthorized", "HTTPError: 429 Client Error"),
    ("OSError: a/b is not a valid model identifier listed on x", "a valid model identifier"),
    ("HFValidationError: Repo id must be in the form 'x'", "HFValidationErrors"),
    ("Value error, Invalid repository ID or local directory specified: '/m'", None),
    ("huggingface_hub.errors.LocalEntryNotFoundError: x", "LocalEntryNotFound"),
    ("ConnectionError: outgoing traffic has been disabled", "outgoing traffic is free"),
    ("OSError: We couldn't connect to 'https://huggingface.co'", "couldn't connect to 'http://x'"),
    (
        "MaxRetryError: HTTPSConnectionPool(host='huggingface.co', port=443)",
        "MaxRetryError: HTTPConnectionPool(host='10.0.0.1', port=9)",
    ),
    ("OSError: /m does not appear to have a file named config.json", None),
    ("OSError: Error no file named pytorch_model.bin found", "no file named so"),
    ("RuntimeError: Cannot find any model weights with `/m/a`", "cannot find any reason"),
    ("OSError: Can't load the configuration of 'a/b'.", "can't load it twice"),
    ("ValueError: Could not detect config format for x", "config format: hf"),
    (
        "FileNotFoundError: [Errno 2] No such file or directory: '/m/model.safetensors'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/x.sock'",
    ),
    ("ValueError: Weight files referenced in index but missing: {'a'}", "missing: 0"),
    ("Error: Access to model a/b is restricted.", "restricted tokens: 3"),
    ("RuntimeError: Invalid username or password.", "ask for username or password"),
    ("safetensors.SafetensorError: Error while deserializing header", "SafetensorErrors"),
    ("RuntimeError: Unable to load vocabulary from file", "the vocab has 32000 words"),
    ("TypeError: not a string", "TypeError: x is not a string"),
    ("RuntimeError: Failed to load the tokenizer.", None),
    (
        "HTTPError: 429 Client Error: Too Many Requests for url: https://huggingface.co/a",
        "HTTPError: 503 Server Error: Busy for url: http://10.0.0.1/v1",
    ),
    ("429 Too Many Requests: https://huggingface.co/a", "too many requests wait"),
    ("huggingface_hub.errors.HfHubHTTPError: x", None),
    ("urllib.error.URLError: <urlopen error timed out>", "urlopen error: none"),
    ("urllib.error.HTTPError: HTTP Error 403: Forbidden", "HTTPErrors: 0"),
    ("RuntimeError: Data processing error: CAS service error : x", "the cas service is up"),
    ("LookupError: Cannot find an appropriate cached snapshot folder", None),
    ("RuntimeError: Unable to open file 'model.bin' in model '/m'", "seen in model.bin"),
    ("RuntimeError: File model.bin is incomplete: failed to read", "the list is incomplete"),
    ("RuntimeError: Model huge not found; available models = ['tiny']", "available models: 3"),
    ("ValueError: Invalid model size 'huge', expected one of: tiny", "the model size is 3 GB"),
    ("RuntimeError: the SHA256 checksum does not match", "the checksum is right"),
    ("RuntimeError: PytorchStreamReader failed reading zip archive: x", "a zip archive"),
    ("_pickle.UnpicklingError: invalid load key, '<'.", None),
)
CHECKPOINTS = (
    ("Transformers does not recognize this architecture, an error", None),
    (
        "ValueError: Model architectures ['ZebraForCausalLM'] are not supported for now.",
        "the architecture of a model",
    ),
    (
        "ValueError: The Transformers implementation of 'Zebra' is not compatible with vLLM.",
        "a wheel that is compatible with vLLM",
    ),
    ("ModuleNotFoundError: Cannot find model module. 'zebra'", "model module: zebra"),
    ("ValueError: No model architectures are specified", None),
    ("ValueError: Unknown quantization method: zip. Must be", None),
    ("ValueError: Unsupported quantization config: x", "quantization config: x"),
    ("ValueError: Cannot find the config file for awq", "cannot find the config file for: x"),
    (
        "ValueError: torch.bfloat16 is not supported for quantization method gptq.",
        "for quantization methods, see x",
    ),
    ("ImportError: Please install bitsandbytes>=0.46.1 via `pip`", "bitsandbytes was found"),
    (
        "ValueError: GGUF model with architecture zebra is not supported yet.",
        "reading the gguf file",
    ),
    ("ValueError: Unsupported FusedMoe scheme: x", "FusedMoe scheme: x"),
    ("ValueError: Tokenizer class ZebraTokenizer does not exist", "tokenizer class: x"),
    (
        "ValueError: There is no module or parameter named 'lm_head.scales' in Zebra",
        "no module or parameter",
    ),
    (
        "ValueError: Following weights were not initialized from checkpoint: x",
        "not initialized from",
    ),
    (
        "AssertionError: Attempted to load weight (torch.Size([1])) into parameter",
        "attempted to load nothing",
    ),
    ("RuntimeError: Error(s) in loading state_dict for Zebra:", "a state_dict of 7 entries"),
    ("KeyError: 'lm_head.qweight'", "KeyError: 'zebra'"),
    ("KeyError: 'layers.0.mlp.gate'", "KeyError: 'layers'"),
    (
        "AttributeError: 'ZebraConfig' object has no attribute 'num_heads'",
        "AttributeError: 'Zebra' object has no attribute 'num_heads'",
    ),
    ("ValueError: The input size is not aligned with the quantized weight shape.", None),
    ("ValueError: 7 is not divisible by weight quantization block_n = 128.", None),
    ("ValueError: GPTQ of 5 bits is currently not supported", "ValueError: GPTQ has support"),
    ("NotImplementedError: Only supports 4 bits with AWQ", "AWQ is well supported"),
    ("ValueError: Zebra, new in vLLM, has no vLLM implementation and x", "in vLLM"),
    (
        "ValueError: No valid attention backend found for cuda",
        "a valid attention backend was chosen",
    ),
    ("ValueError: These models are not yet supported.", "ValueError: it is not yet supported"),
    ("AttributeError: module 'transformers' has no attribute 'x'", "transformers: 4.57"),
    ("ImportError: cannot import name 'x' from 'transformers.y'", None),
    ("RuntimeError: Unsupported model binary version. This executable supports v5", None),
    ("Value error, Model architectures ['Zebra'] failed to be inspected. Please", None),
)
SETTINGS = (
    (
        "ValueError: User-specified max_model_len (65536) is greater than the derived"
        " max_model_len (max_position_embeddings=32768 or model_max_length=None)",
        "max_model_len (4096) is fine",
    ),
    (
        "Value error, max_num_batched_tokens (2048) is smaller than max_model_len (4096).",
        "max_num_batched_tokens (2048) is used",
    ),
    (
        "ValueError: attention heads (28) must be divisible by tensor parallel size (3).",
        "n must be divisible by 3",
    ),
    (
        "ValueError: World size (4) is larger than the number of available GPUs (1) in this node",
        "the number of available GPUs is 4",
    ),
    ("ValueError: GPU memory utilization must be less than 1.0. Got 2.0.", None),
    ("ValueError: Method (gptq) does not match the quantization method specified", None),
    ("ValueError: Please pass the argument `trust_remote_code=True`", "trust_remote_code=False"),
    ("ValueError: a/b contains custom code which must be executed", "custom code: none"),
    ("Error: Loading a/b requires you to execute the configuration file in that repo", None),
    ("KeyError: 'invalid tool call parser: x (chose from { y })'", "the parser is x"),
    (
        "ValueError: The supplied chat template string (x.jinja) appears path-like, but",
        "chat template string: x",
    ),
    ("ValueError: LoRA rank 64 is greater than max_lora_rank 16.", "LoRA rank 8"),
    ("ValueError: This platform does not support `--enable-x`", "does not support `--`"),
    ("ValueError: Invalid attention backend: 'x'", "using the attention backend x"),
    ("ValueError: Invalid value 'x' for level", "an invalid value"),
    ("ValueError: 'fp7' is not a valid KVCacheType", "ValueError: '7' is not a valid number"),
    ("RuntimeError: NUMA binding was requested but x", "numa nodes: 2"),
    ("TypeError: __init__() got an unexpected keyword argument 'x'", "an unexpected keyword"),
    (
        "pydantic.ValidationError: 2 validation errors for SchedulerConfig",
        "validation error for Chat",
    ),
    ("Value error, dog_size must be < 3.", "RuntimeError: no value error, but another"),
    ("RuntimeError: Sleep is impossible. Leave --enable-sleep-mode unset.", "RuntimeError: a -- b"),
    ("failed: set VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 to allow it", None),
    ("ValueError: Load format `zip` is not supported", "load format: auto"),
    ("  Input should be greater than 0 [type=greater_than, input_value=-1, input_type=int]", None),
)
WAITS = (
    ("TimeoutError: RPC call to sample_tokens timed out.", "RPC call to sample_tokens"),
    (
        "TimeoutError: Timed out waiting for engine core processes to start. Waited 600s",
        "waiting for engine core processes to start",
    ),
    (
        "RuntimeError: Did not receive response from front-end process within 5 minutes",
        "a response from front-end",
    ),
    ("RuntimeError: Engine iteration timed out. This should never happen!", None),
    ("TimeoutError: Engine didn't reply within 10000ms", "please reply within 3 days"),
    ("RuntimeError: failed to report ZMQ addresses within 60 s", "ZMQ addresses within: x"),
    ("RuntimeError: MQLLMEngine heartbeat timed out", "a heartbeat a second"),
    ("TimeoutError", "TimeoutErrors: 0"),
    ("ERROR the server did not become ready within 600 s", "within 3 s it was ready"),
    ("TimeoutError: Timed out waiting for the vLLM process", "waiting for requests"),
    ("RuntimeError: startup timed out", "startup took 3 s"),
)
CASES = (
    *(("port_in_use", *row) for row in PORTS),
    *(("nccl_or_dist", *row) for row in RANKS),
    *(("model_not_found_or_auth", *row) for row in MODELS),
    *(("unsupported_quantization_or_arch", *row) for row in CHECKPOINTS),
    *(("bad_argument", *row) for row in SETTINGS),
    *(("timeout_hang", *row) for row in WAITS),
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
        (PORTS[0][0], {"host": "::", "port": 8_000}),
        (PORTS[3][0], {"port": 8_000}),
        (PORTS[4][0], {"port": 8_000}),
        (RANKS[0][0], {"status": "unhandled system error"}),
        (RANKS[6][0], {"waited": "600s"}),
        (RANKS[7][0], {"waited_s": 601}),
        (RANKS[8][0], {"waited_s": 300.0}),
        (RANKS[9][0], {"waited_s": 1_800}),
        (RANKS[20][0], {"waited_s": 30.5}),
        (RANKS[23][0], {"waited_s": 130}),
        (MODELS[3][0], {"status": 401}),
        (MODELS[11][0], {"file": "config.json"}),
        (MODELS[12][0], {"file": "pytorch_model.bin"}),
        (CHECKPOINTS[5][0], {"quantization": "zip"}),
        (CHECKPOINTS[7][0], {"quantization": "awq"}),
        (CHECKPOINTS[8][0], {"quantization": "gptq"}),
        (CHECKPOINTS[10][0], {"architecture": "zebra"}),
        (CHECKPOINTS[13][0], {"parameter": "lm_head.scales"}),
        (CHECKPOINTS[17][0], {"parameter": "lm_head.qweight"}),
        (CHECKPOINTS[18][0], {"parameter": "layers.0.mlp.gate"}),
        (CHECKPOINTS[19][0], {"config": "ZebraConfig", "attribute": "num_heads"}),
        (SETTINGS[0][0], {"max_model_len": 65_536, "derived_max_model_len": 32_768}),
        (SETTINGS[1][0], {"max_num_batched_tokens": 2_048, "max_model_len": 4_096}),
        (SETTINGS[3][0], {"asked_gpus": 4, "gpus": 1}),
        (SETTINGS[11][0], {"lora_rank": 64}),
        (SETTINGS[12][0], {"argument": "enable-x"}),
        (SETTINGS[14][0], {"value": "x", "argument": "level"}),
        (SETTINGS[15][0], {"value": "fp7"}),
        (SETTINGS[17][0], {"argument": "x"}),
        (SETTINGS[20][0], {"argument": "enable-sleep-mode"}),
        (WAITS[0][0], {"method": "sample_tokens"}),
        (WAITS[1][0], {"waited_s": 600}),
        (WAITS[4][0], {"waited_s": 10.0}),
        (WAITS[8][0], {"waited_s": 600}),
    ],
)
def test_a_line_gives_its_figures(line, figures):
    assert dict(figures_of(first(BOOK, line).pattern.search(line))) == figures


def test_what_only_a_start_may_die_of_means_nothing_later():
    only = {"model_not_found_or_auth", "unsupported_quantization_or_arch", "bad_argument"}
    assert {rule.cause for rule in RULES if rule.start_only} == {*only, "timeout_hang"}
    assert only.isdisjoint(rule.cause for rule in RULES if not rule.start_only)
    assert [line for line, _ in WAITS if first(BOOK, line).start_only] == ["TimeoutError"]


def test_a_script_s_words_weigh_least_and_an_implication_little():
    def weighing(rank):
        return {line for _, line, _ in CASES if first(BOOK, line).rank is rank}

    assert weighing(Rank.OUTER) == {RANKS[22][0], RANKS[23][0], *(row[0] for row in WAITS[8:])}
    weak = {*CHECKPOINTS[-5:-1], SETTINGS[17], *SETTINGS[19:], WAITS[7]}
    assert weighing(Rank.WEAK) == {line for line, _ in weak}
    assert weighing(Rank.WRAPPER) == {CHECKPOINTS[-1][0], SETTINGS[18][0]}
    assert weighing(Rank.DECISIVE) == set()


def test_only_the_wires_are_heard_of_quietly():
    quiet = {line for _, line, _ in CASES if first(BOOK, line).quiet}
    assert quiet == {RANKS[22][0], RANKS[23][0]}


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve: error: unrecognized arguments: --zebra 0.9",
        "api_server.py: error: argument --max-model-len: invalid value",
        "api_server.py: error: anything",
        "vllm: error: anything",
    ],
)
def test_vllm_did_not_understand_its_command_line(line):
    assert ARGPARSE.search(line)


@pytest.mark.parametrize(
    ("line", "argument"),
    [
        ("x: error: unrecognized arguments: --zebra 0.9", "--zebra"),
        ("x: error: argument --max-model-len: invalid value", "--max-model-len"),
        ("x: error: the following arguments are required: model", "model"),
        ("x: error: ambiguous option: --max could match", "--max"),
    ],
)
def test_anybody_s_command_line_was_not_understood_for_an_argument(line, argument):
    assert ARGPARSE.search(line)["argument"] == argument


@pytest.mark.parametrize(
    "line", ["x: error: anything", "ERROR: argument", "say vllm: error: x", "vllm: no error: x"]
)
def test_a_command_line_was_not_what_failed(line):
    assert not ARGPARSE.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "Cannot use FA version 2 is not supported due to FA2 is only supported on devices with",
        "Error retrieving safetensors: Repo id must be in the form 'repo_name'",
        "Error retrieving file list: 404 Client Error",
        "Failed to load function from spec: OutOfMemoryError",
        "Dumping input data for V1 LLM engine",
        "Dumping scheduler output for model execution",
        "non-default args: {'on': 'CUDA out of memory'}",
        "Initializing a V1 LLM engine (v0.11.0) with config: model='gated repo'",
        "args: Namespace(model='gated repo')",
        "Received request cmpl-1: prompt: 'CUDA out of memory'",
        "Added request cmpl-1: 'NCCL error'",
        "Generated response for cmpl-1: 'NCCL error'",
        "TCPStore.cpp:125] recvValue failed: DistNetworkError",
        "WARNING: destroy_process_group() was not called before exit, NCCL error",
        "Capturing cudagraphs. If out-of-memory error occurs during capture, consider",
        "401 Client Error, retrying in 3 s",
        "Port 8000 is already in use, trying port 8001",
    ],
)
def test_a_line_that_frightens_is_known_by_one_of_its_parts(line):
    assert sum(part in line.lower() for part in HARMLESS) == 1


def test_no_line_that_names_a_cause_is_taken_for_harmless():
    harmless = [line for _, line, _ in CASES if any(part in line.lower() for part in HARMLESS)]
    assert harmless == []
    assert not any(line.startswith(SOURCE_CODE) for _, line, _ in CASES)


@pytest.mark.parametrize(
    "line",
    [
        'raise ValueError("No CUDA GPUs are available")',
        'assert x, "NCCL error"',
        "except MemoryError as error:",
        'return "gated repo"',
        'logger.error("NCCL error")',
        'warnings.warn("NCCL error")',
    ],
)
def test_source_code_is_known_by_how_it_begins(line):
    assert line.startswith(SOURCE_CODE)
    assert not f"x = {line}".startswith(SOURCE_CODE)
