"""What we rely on, held against vLLM's own code: `python -m tests.benchmarks.vllm_conformance`."""
