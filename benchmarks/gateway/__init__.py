"""The gateway against vllm-router and against no front at all: same fake engines, same load, one run."""
