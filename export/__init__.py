"""From a trained student to a verified bundle: ONNX graph, quantisation, proof, model card."""
