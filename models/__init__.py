"""The two models (codec and S2S transformer), their symbols, their artefacts and the ONNX engine that steps them."""
