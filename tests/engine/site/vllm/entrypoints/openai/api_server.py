"""`python -m vllm.entrypoints.openai.api_server` as the fake engine, so that a lowered argv runs unchanged."""

from tests.fakes.process import main

main()
