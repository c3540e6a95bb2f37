"""Arrays in, arrays out: quantization, ranges, errors. Imports neither a graph nor onnx."""
