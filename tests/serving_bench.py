"""A bench of fake servers: real processes with knobs, judged by the real objective."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from objectives.candidate import ServerSettings
from objectives.load.profile import LlmLoad, LoadProfile, SttLoad, plan
from objectives.models.shape import ModelShape
from objectives.servers.engine import probe
from objectives.serving import ServingObjective
from objectives.space import Binding, Parameter, SearchSpace
from objectives.trial.bench import Bench, Objective
from tests.fakes.engine import write_engine
from tests.fakes.fixed_node import fixed_node
from tests.kinds import with_servers

GIB = 1 << 30
MODEL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 512,
    "vocab_size": 2048,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
BYTES_PER_TOKEN = 2 * 4 * 8 * 64 * 2
NON_KV_BYTES = int(0.7 * GIB)

SPACE = SearchSpace(
    (
        Parameter(
            name="vllm_memory_util",
            binding=Binding.parse("vllm.args.gpu-memory-utilization"),
            choices=(0.05, 0.10, 0.15, 0.20, 0.75),
            bounds=(0.01, 0.70),
        ),
        Parameter(
            name="whisper_model_size",
            binding=Binding.parse("whisper.model"),
            choices=("tiny", "base", "small"),
        ),
    )
)
OBJECTIVES = (
    Objective(name="stt_latency_ms"),
    Objective(name="llm_latency_ms"),
    Objective(name="concurrent_capacity"),
)


@dataclass
class FakeBench:
    """Judges points of `SPACE` with fake servers on this machine's CPU."""

    folder: Path
    knobs: dict = field(default_factory=dict)
    changes: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)

    def __post_init__(self):
        model = self.folder / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps(MODEL))
        device = fixed_node(self.folder / "machine")
        knobs = {
            "FAKE_VLLM_DEVICE_TOTAL_BYTES": str(device.total_bytes),
            "FAKE_VLLM_DEVICE_FREE_BYTES": str(device.read().free_bytes),
            "FAKE_VLLM_NON_KV_BYTES": str(NON_KV_BYTES),
            "FAKE_VLLM_BYTES_PER_TOKEN": str(BYTES_PER_TOKEN),
            "FAKE_VLLM_STYLE": "cpu-0.32",
            **self.knobs,
        }
        home = self.folder / "home"
        engine = probe(write_engine(self.folder / "engine", knobs=knobs), home=home)
        profile = LoadProfile(
            seed=1,
            llm=LlmLoad(rate_rps=40, prompt_tokens=16, output_tokens=8, vocab_size=2048),
            stt=SttLoad(rate_rps=20, clip_s=(1.0,)),
            warmup_s=0.1,
            measure_s=0.4,
            drain_s=2.0,
            timeout_s=5.0,
        )
        settings = {
            "space": SPACE,
            "device": device,
            "vllm_engine": engine,
            "whisper_engine": engine,
            "vllm": ServerSettings(
                model=str(model), device="cpu", args={"max-model-len": 1024, "max-num-seqs": 64}
            ),
            "whisper": ServerSettings(model="small", device="cpu", args={"dtype": "float32"}),
            "llm_path": str(model),
            "shape": ModelShape.from_config(model),
            "vllm_version": engine.vllm_version,
            "profile": profile,
            "trace": plan(profile),
            "quantile": "p50",
            "objectives": OBJECTIVES,
            "vllm_start_s": 30.0,
            "whisper_start_s": 30.0,
            "lock_folder": self.folder / "locks",
            "headroom_bytes": 0,
        }
        self.bench = Bench(**with_servers({**settings, **self.changes}))
        self.study = optuna.create_study(
            directions=["minimize", "minimize", "maximize"], sampler=optuna.samplers.RandomSampler()
        )
        self.objective = ServingObjective(
            bench=self.bench, store_files=self._keep, on_phase=self.steps.append
        )

    def _keep(self, trial, paths):
        for path in paths:
            self.files.setdefault(trial.number, {})[path.name] = path.read_bytes()

    def judge(self, *, catch=(), **params):
        """Judge a point; the trial as it is stored afterwards."""
        point = {"vllm_memory_util": 0.15, "whisper_model_size": "tiny", **params}
        self.study.enqueue_trial(point)
        self.study.optimize(self.objective, n_trials=1, catch=catch)
        return self.study.trials[-1]
