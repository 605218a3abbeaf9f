"""ONNX graphs stepped in place: every input and output is bound once to memory that stays where it is."""

from typing import Any

import numpy as np
import onnxruntime as ort

_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def _buffer(argument: Any) -> np.ndarray:
    return np.zeros([int(size) for size in argument.shape], _TYPES[argument.type])


class GraphStream:
    """One stream through a graph whose ``state_i`` inputs are its ``new_state_i`` outputs of the step before.

    ``inputs`` and ``outputs`` are arrays to write and read around :meth:`run`; an output is overwritten by the next
    run. State alternates between two bound buffers, so nothing is copied.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        given, made = session.get_inputs(), session.get_outputs()
        self.inputs = {arg.name: _buffer(arg) for arg in given if not arg.name.startswith("state_")}
        self.outputs = {arg.name: _buffer(arg) for arg in made if not arg.name.startswith("new_state_")}
        states = [arg for arg in given if arg.name.startswith("state_")]
        self._states = [{arg.name: _buffer(arg) for arg in states} for _ in range(2)]
        self._bindings = [self._bind(turn) for turn in range(2 if states else 1)]
        self._turn = 0

    def _bind(self, turn: int) -> Any:
        binding = self._session.io_binding()
        before, after = self._states[turn], self._states[1 - turn]
        for name, array in (self.inputs | before).items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in (self.outputs | {f"new_{name}": array for name, array in after.items()}).items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        return binding

    def run(self) -> None:
        """Advance one frame."""
        self._session.run_with_iobinding(self._bindings[self._turn])
        self._turn = (self._turn + 1) % len(self._bindings)

    def copy(self) -> "GraphStream":
        """Another stream through the same graph that goes on from here."""
        other = GraphStream(self._session)
        other._turn = self._turn
        pairs = [(self.inputs, other.inputs), (self.outputs, other.outputs)]
        pairs += zip(self._states, other._states, strict=True)
        for mine, theirs in pairs:
            for name, array in mine.items():
                theirs[name][:] = array
        return other

    def reset(self) -> None:
        """Back to the state before the first frame."""
        self._turn = 0
        for array in self._states[0].values():
            array[:] = 0
