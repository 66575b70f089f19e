# make c: build the C library over ONNX Runtime and its examples into c/build.
#   W2S_ONNXRUNTIME=/path/to/libonnxruntime.so c/build/classify . speech.wav
.PHONY: c
c:
	cmake -S c -B c/build $(CMAKE_FLAGS)
	cmake --build c/build
