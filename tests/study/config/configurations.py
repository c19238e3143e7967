"""Configurations that are allowed: the first users' block, and one of our own format."""

import pytest

from objectives.errors import UsageError
from study.config.files import read_config

LEGACY = """
- name: spica_gpu_allocation
  enabled: true
  template: null
  search_space:
    vllm_memory_util: [0.40, 0.45, 0.50, 0.55, 0.60]
    whisper_model_size: ["tiny", "base", "small"]
  evaluator:
    path: /home/somebody/spica_gpu_allocation.py
    class: SpicaGPUAllocation
    init_kwargs: {}
  budget:
    wallclock_sec: 360
    max_candidates: 10
    max_generations: 4
    allow_gpu: true
  metrics:
    target_direction:
      stt_latency_ms: "down"
      llm_latency_ms: "down"
      gpu_utilization: "neutral"
      oom_events: "down"
      concurrent_capacity: "up"
"""

OURS = {
    "name": "mine",
    "vllm": {"model": "some/model"},
    "search_space": {"vllm_memory_util": [0.4, 0.5], "whisper_model_size": ["tiny", "small"]},
}


def refusal(path, **options):
    """The one line that a file is refused with, less the file's name."""
    with pytest.raises(UsageError) as caught:
        read_config(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")
