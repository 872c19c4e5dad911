"""`python -m vllm.entrypoints.openai.api_server` as the fake engine, so that a lowered argv runs unchanged."""

import os
import sys

from tests.fakes.process import main

main([*sys.argv[1:], "--fake-start-s", os.environ.get("FAKE_ENGINE_START_S", "0")])
