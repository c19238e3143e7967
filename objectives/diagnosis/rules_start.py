"""Wordings of what goes wrong before a server serves: ports, ranks, model, arguments."""

from __future__ import annotations

import re

from objectives.diagnosis.progress import parts
from objectives.diagnosis.rules import Rank, rules

PORT = (
    *rules(
        "port_in_use",
        (
            "errno 98|errno 48",
            r"\[Errno (?:98|48)\] (?:error while attempting to bind on address"
            r" \('?(?P<host>[^',]*)'?, (?P<port>\d+)[^)]*\): )?address already in use",
        ),
        ("address already in use", r"(?:OS|ZMQ)Error\S*: .{0,40}?Address already in use"),
        ("eaddrinuse", r"Error: .{0,160}?(?:port: (?P<port>\d+).{0,80}?)?EADDRINUSE"),
        ("is already", r"\bport (?P<port>\d+) is already (?:in use|allocated|being used)"),
        ("port is already", r"(?::(?P<port>\d+) failed: )?port is already allocated"),
    ),
)
"""Somebody else listens there."""

DISTRIBUTED = (
    *rules(
        "nccl_or_dist",
        ("nccl error", r"NCCL error(?:: (?P<status>[a-z ]+?) \(|\b)"),
        ("ncclunhandled|ncclsystem|ncclinternal|ncclinvalid|ncclremote", r"\bnccl\w+Error\b"),
        ("rccl error", r"RCCL error"),
        ("watchdog caught", r"Watchdog caught collective operation timeout"),
        (
            "distbackenderror|distnetworkerror|diststoreerror",
            r"\bDist(?:Backend|Network|Store)Error",
        ),
        ("gloo", r"gloo.{0,120}?enforce fail|Gloo connectFullMesh failed|unsupported gloo device"),
        ("client socket has timed", r"client socket has timed out after (?P<waited>\w+)"),
        ("clients joined", r"Timed out after (?P<waited_s>\d+) seconds waiting for clients"),
        ("wait timeout after", r"wait timeout after (?P<waited_ms>\d+)ms"),
        (
            "placement group",
            r"Cannot provide a placement group.*?within (?P<waited_s>\d+) seconds"
            r"|exceeds the total number of available \w+ in the placement group"
            r"|not included in a placement group",
        ),
        ("nccluniqueid", r"retrieving ncclUniqueId"),
        ("ray does not allocate", r"Ray does not allocate any GPUs"),
        ("peer access", r"peer access is not supported"),
        ("custom_all_reduce.cu", r"error.{0,80}custom_all_reduce\.cu"),
        ("socket timeout", r"Error: .{0,40}Socket Timeout"),
        ("running ray instance", r"Could not find any running Ray instance"),
        ("marked dead", r"node .{0,120}has been marked dead"),
        ("failed to connect", r"socket has failed to connect to any network address"),
        ("unique ip address", r"Every node should have a unique IP address"),
        ("current node has no", r"Current node has no \w+ available"),
        ("barrier", r"Barrier(?: departure)? timed out after (?P<waited_s>\d+(?:\.\d+)?) seconds"),
        ("shared memory segment", r"Error while creating shared memory segment /dev/shm/nccl"),
    ),
    *rules(
        "nccl_or_dist",
        ("connection closed by peer", r"gloo.{0,200}Connection closed by peer"),
        ("waiting for creating a placement", r"placement group .{0,24}for (?P<waited_s>\d{3,}) s"),
        rank=Rank.OUTER,
        quiet=True,
    ),
)
"""Ranks, nodes and their wires."""

HUNG = (
    *rules(
        "timeout_hang",
        ("rpc call to", r"RPC call to (?P<method>\S+) timed out"),
        (
            "engine core processes to",
            r"Timed out waiting for engine core processes to start"
            r"(?:.*?Waited (?P<waited_s>\d+) ?s)?",
        ),
        ("response from front-end", r"Did not receive response from front-end process within"),
        ("engine iteration timed out", r"Engine iteration timed out"),
        ("reply within", r"(?:didn't|did not) reply within (?P<waited_ms>\d+) ?ms"),
        ("zmq addresses within", r"failed to report ZMQ addresses"),
        ("heartbeat", r"(?:engine|MQ\w*).{0,40}heartbeat.{0,40}(?:timed out|timeout|missed)"),
    ),
    *rules(
        "timeout_hang",
        ("timeouterror", r"^(?:asyncio\.(?:exceptions\.)?|concurrent\.futures\S*\.)?TimeoutError$"),
        rank=Rank.WEAK,
        start_only=True,
    ),
    *rules(
        "timeout_hang",
        (
            "within|after",
            r"(?:server|vllm|engine|service|endpoint)\b.{0,40}(?:did not|didn't|failed to|not)"
            r" (?:start|become|get|come|be) ?(?:up|ready|healthy|respond\w*)?.{0,12}"
            r" (?:within|in|after) (?P<waited_s>\d+)",
        ),
        (
            "waiting for",
            r"(?:Timeout|Timed out) (?:while )?waiting for .{0,24}(?:server|vllm|engine)",
        ),
        ("startup t", r"start-?up timed out|start-?up timeout"),
        rank=Rank.OUTER,
    ),
)
"""Somebody waited, and stopped waiting."""

MODEL = (
    *rules(
        "model_not_found_or_auth",
        ("gated repo", r"gated repo"),
        (
            "gatedrepo|repositorynotf|revisionnotf",
            r"(?:GatedRepo|(?:Repository|Revision)NotFound)Err",
        ),
        ("not found for url", r"(?:Repository|Revision|Entry) Not Found for url"),
        ("client error", r"\b(?P<status>40[134]) Client Error"),
        ("valid model identifier", r"not a valid model identifier"),
        ("hfvalidationerror", r"HFValidationError: "),
        ("repository id or local", r"Invalid repository ID or local directory specified"),
        ("localentrynotfound", r"LocalEntryNotFoundError|OfflineModeIsEnabled"),
        ("outgoing traffic", r"outgoing traffic has been disabled"),
        ("couldn't connect to", r"couldn't connect to '?https?://\S*(?:hugging|hf|modelscope)"),
        ("connectionpool", r"ConnectionPool\(host='[\w.-]*(?:hugging|hf|modelscope|openaipublic)"),
        ("does not appear to have", r"does not appear to have a file named (?P<file>[\w.-]+)"),
        ("no file named", r"Error no file named (?P<file>[\w.-]+)"),
        ("cannot find any", r"Cannot find any (?:safetensors )?model weights with"),
        ("can't load", r"Can't load (?:the )?(?:tokenizer|config\w*|feature extractor|model)\b"),
        ("config format", r"Could not detect config format|no config file found"),
        (
            "no such file",
            r"No such file or directory: \S*(?:config[\w.]*\.json|tokenizer[\w.]*|params\.json"
            r"|vocab[\w.]*|\.safetensors(?:\.index\.json)?|\.gguf|\.bin|\.model)['\"]?$",
        ),
        ("missing:", r"Weight files referenced in index but missing"),
        ("restricted", r"Access to model \S+ is restricted"),
        ("username or password", r"Invalid (?:username or password|credentials in Authoriz)"),
        ("safetensorerror", r"SafetensorError: "),
        ("vocab", r"(?:invalid|Unable to load|download|error).{0,40}\bvocab(?:ulary)?\b"),
        ("not a string", r"^TypeError: not a string$"),
        ("failed to load the tokenizer", r"Failed to load the tokenizer"),
        start_only=True,
    ),
)
"""The model, its tokenizer or the right to read them is missing."""

_SCHEME = (
    r"quanti[sz]|GPTQ|AWQ|GGUF|bitsandbytes|compressed.tensors|MXFP|NVFP|Marlin|ModelOpt|FusedMoe"
)
ARCHITECTURE = (
    *rules(
        "unsupported_quantization_or_arch",
        ("recognize this architecture", r"does not recognize this architecture"),
        (
            "architecture",
            r"Model architectures? \S.{0,80}?(?:are|is|was|failed)\b.{0,24}(?:not support"
            r"|to be inspected|supported in vLLM until)",
        ),
        ("compatible with vllm", r"Transformers implementation.{0,60}not compatible with vLLM"),
        ("model module", r"Cannot find model module"),
        ("no model architectures", r"No model architectures are specified"),
        ("unknown quantization", r"Unknown quantization method:? ?(?P<quantization>[\w-]+)?"),
        ("quantization config", r"Unsupported quantization config|Cannot find the config file for"),
        ("cannot find the config file", r"Cannot find the config file for (?P<quantization>\w+)"),
        ("for quantization method", r"not supported for quantization method (?P<quantization>\w+)"),
        (
            "bitsandbytes",
            r"(?:install|No module named) '?bitsandbytes|bitsandbytes.{0,60}not.{0,12}suppo",
        ),
        (
            "gguf",
            r"GGUF model with architecture (?P<architecture>\S+) is not supported|gguf model_type",
        ),
        ("unsupported num_bits|fusedmoe scheme", r"Unsupported (?:num_bits|FusedMoe scheme)"),
        ("tokenizer class", r"Tokenizer class \w+ does not exist"),
        ("no module or parameter", r"There is no module or parameter named '(?P<parameter>[^']+)'"),
        ("not initialized from", r"weights were not initialized from checkpoint"),
        ("attempted to load", r"Attempted to load (?:nested )?weight"),
        ("state_dict|size mismatch", r"in loading state_dict|size mismatch for \S+: copying"),
        (
            "keyerror",
            r"KeyError: '(?P<parameter>[\w.]*\.[\w.]*(?:weight|bias|scale\w*|qzeros|inv_freq))'",
        ),
        ("keyerror", r"KeyError: '(?P<parameter>(?:model\.)?(?:layers|blocks|visual)\.[\w.]+)'"),
        (
            "has no attribute",
            r"'(?P<config>\w+Config)' object has no attribute '(?P<attribute>\w+)'",
        ),
        ("quantized weight shape", r"not aligned with the quantized weight shape"),
        ("weight quantization block", r"not divisible by weight quantization block"),
        (
            "support",
            rf"Error: .{{0,160}}?(?:{_SCHEME}).{{0,120}}?(?:not (?:yet |currently )?supported"
            r"|unsupported|does not support|only supports?)",
        ),
        (
            "support",
            rf"Error: .{{0,60}}?(?:unsupported|only supports?|not support).{{0,80}}?(?:{_SCHEME})",
        ),
        ("in vllm", r"has no vLLM implementation and"),
        (
            "valid attention backend",
            r"No valid (?:attention|\w+ MLA prefill|MLA prefill) backend found",
        ),
        start_only=True,
    ),
    *rules(
        "unsupported_quantization_or_arch",
        (
            "support",
            r"Error: .{0,80}?\b(?:models?|architectures?)\b.{0,60}?(?:is|are) not (?:yet |"
            r"currently )?supported",
        ),
        ("transformers", r"(?:module|from) '?transformers\S* .{0,12}(?:no attribute|import name)"),
        (
            "transformers",
            r"cannot import name '\w+' from 'transformers|requires? transformers *>?=",
        ),
        rank=Rank.WEAK,
        start_only=True,
    ),
)
"""A checkpoint that this engine cannot read."""

ARGPARSE = re.compile(
    r"\berror: (?:unrecognized arguments: |argument |the following arguments are required: "
    r"|ambiguous option: )(?P<argument>[^\s:]+)|^(?:[\w-]*\.py|vllm(?: \w+)?): error: "
)
"""The command line was not understood: the process got no further than its first line."""

ARGUMENTS = (
    *rules(
        "bad_argument",
        (
            "max_model_len",
            r"max_model_len \((?P<max_model_len>\d+)\) is greater than the derived max_model_len"
            r"(?: \([^=)]*=(?P<derived_max_model_len>\d+(?:\.\d+)?))?",
        ),
        (
            "max_num_batched_tokens",
            r"max_num_batched_tokens \((?P<max_num_batched_tokens>\d+)\) (?:is smaller than"
            r" max_model_len \((?P<max_model_len>\d+)\)|must be)",
        ),
        ("must be divisible by", r"must be divisible by.{0,40}(?:parallel|_size)"),
        (
            "number of available gpus",
            r"(?:size|World size) \((?P<asked_gpus>\d+)\) (?:is larger than|cannot be larger than)"
            r" the number of available GPUs \((?P<gpus>\d+)\)",
        ),
        ("memory utilization must", r"GPU memory utilization must be (?:less|in)"),
        ("does not match the quant", r"does not match the quantization method specified"),
        ("trust_remote_code", r"pass the (?:argument|option) `?(?:--)?trust[_-]remote[_-]code"),
        ("custom code", r"contains custom code which must be executed"),
        ("requires you to execute", r"requires you to execute the (?:configuration|modeling) file"),
        ("parser", r"invalid (?:tool call|reasoning) parser|requires? --tool-call-parser"),
        ("chat template", r"chat template string .{0,160}(?:doesn't exist|appears path-like)"),
        ("lora rank", r"LoRA rank (?P<lora_rank>\d+) is greater than max_lora_rank"),
        ("does not support `--", r"does not support `--(?P<argument>[\w-]+)"),
        (
            "attention backend|selected backend",
            r"(?:Invalid|Unknown) attention backend"
            r"|Selected backend \S+ is not valid for this configuration",
        ),
        ("invalid value", r"Invalid value '(?P<value>[^']*)' for (?P<argument>\w+)"),
        (
            "is not a valid",
            r"Error: '?(?P<value>[\w.-]+)'? is not a valid \w+(?:Enum|Backend|Type|Mode)",
        ),
        ("numa", r"NUMA binding was requested"),
        start_only=True,
    ),
    *rules(
        "bad_argument",
        (
            "unexpected keyword",
            r"TypeError: .*got an unexpected keyword argument '(?P<argument>\w+)'",
        ),
        ("validation error", r"validation errors? for \w*(?:Config|Args)\b"),
        ("value error, ", r"^Value error, "),
        ("--", r"Error: .{0,400}?(?:^|[ `'\"(])--(?P<argument>[a-z][\w-]+)"),
        ("vllm_allow_long", r"VLLM_ALLOW_LONG_MAX_MODEL_LEN"),
        (
            "unknown load format|load format",
            r"(?:Load format `?\S+ is not supported|Unknown load_format)",
        ),
        rank=Rank.WEAK,
        start_only=True,
    ),
)
"""Settings that contradict the model, the machine or each other."""

HARMLESS = parts(
    "cannot use fa version|error retrieving safetensors|error retrieving file list"
    "|failed to load function from spec|dumping input data|dumping scheduler|non-default args"
    "|with config: |namespace(|received request |added request |generated response|tcpstore.cpp"
    "|destroy_process_group() was not called|if out-of-memory error occurs|retrying in "
    "|trying port"
)
"""Parts, in lower case, of lines that look like failures or carry other people's words."""

SOURCE_CODE = ("raise ", "assert ", "except ", "return ", "logger.", "warnings.warn(")
"""How an echoed line of source begins in a traceback: it holds a message that nobody said yet."""
