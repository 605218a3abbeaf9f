"""Where audio meets the models: turn taking, the model thread, sessions and the daemon."""
