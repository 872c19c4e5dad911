"""Reads a Hugging Face config.json into an `Architecture`.

The keys are those of the configuration classes of transformers 4.57 and 5, and of the remote code that models bring
along; what a checkpoint's file leaves out is what its class has as default. Whatever is missing, contradicts
something else or is not understood is told at once, key by key.
"""

from pulumi_tandem.declare.config_json.files import read_folder
from pulumi_tandem.declare.config_json.shape import architecture

__all__ = ["architecture", "read_folder"]
