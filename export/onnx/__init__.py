"""Students as ONNX graphs."""
