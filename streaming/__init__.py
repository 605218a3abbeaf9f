"""Audio and wire: frames, rings, resampling, voice activity, devices, playout and the realtime protocol (no torch)."""
