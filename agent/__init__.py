"""Where audio meets the models: turn taking, the model threads, sessions and the daemon."""
