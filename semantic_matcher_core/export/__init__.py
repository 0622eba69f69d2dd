"""Networks in other formats, for other runtimes."""

from semantic_matcher_core.export.onnx_export import export_onnx
from semantic_matcher_core.networks.onnx_files import onnx_folder

__all__ = ["export_onnx", "onnx_folder"]
