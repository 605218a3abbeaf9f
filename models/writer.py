"""A local causal language model that completes a chat, for text-in; `transformers`, nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_NEW_TOKENS = 200


class LocalWriter:
    """Completes chats, always with the most likely word.

    Args:
        path: a directory with a model and its tokenizer.

    Raises:
        OSError: a file is missing.
        ValueError: it is no causal language model.
    """

    def __init__(self, path: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()

    def __call__(self, chat: list[dict[str, str]]) -> str:
        """The next message of ``chat``, messages with ``role`` and ``content``."""
        tokenizer: Any = self._tokenizer
        if tokenizer.chat_template:
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        else:
            ids = tokenizer(_plain(chat), return_tensors="pt")
        room = getattr(self._model.config, "max_position_embeddings", None)
        prompt = ids["input_ids"] if room is None else ids["input_ids"][:, -max(1, room - MAX_NEW_TOKENS) :]
        with torch.inference_mode():
            made = self._model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=MAX_NEW_TOKENS, do_sample=False,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
            )  # fmt: skip
        text: str = tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True)
        return text if tokenizer.chat_template else text.split("\nuser:")[0]


def _plain(chat: list[dict[str, str]]) -> str:
    """A chat for a model that knows no chats."""
    return "".join(f"{message['role']}: {message['content']}\n" for message in chat) + "assistant:"
