"""ONNX files: read as modules of PyTorch, or run by onnxruntime.

It imports the core only. Start reading at `model.load_onnx`; `operators.py` holds what it can read.
"""
