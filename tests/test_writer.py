"""A local language model, and an endpoint that is really one."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.errors import InputError
from agent.writer import Exchange, checked, messages, open_writer


class _Endpoint(BaseHTTPRequestHandler):
    asked: ClassVar[list[dict[str, Any]]] = []
    answer: ClassVar[bytes] = b""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    _Endpoint.asked.clear()
    with HTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def completion(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def test_an_endpoint_writes(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked as OpenAI's is, with the past; thoughts and markup of its answer are left out."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    _Endpoint.answer = completion("<think>hm <loud></think>**We** <emph>guarantee it.\n- And fast.")
    write = open_writer(f"{endpoint}#small")
    assert write("Why?", ["We guarantee it"], [Exchange("Who?", "Us.")]) == "We <emph>guarantee it. And fast."
    (asked,) = _Endpoint.asked
    assert (asked["path"], asked["model"], asked["key"]) == ("/v1/chat/completions", "small", "Bearer secret")
    assert [message["role"] for message in asked["messages"]] == ["system", "user", "assistant", "user"]
    assert asked["messages"][-1]["content"] == "Question: Why?\nTalking points:\n- We guarantee it"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (completion("a <loud>word"), "unknown prosody tag <loud>"),
        (completion(" ... "), "wrote no words"),
        (b"<html>", "no chat completion"),
        (b'{"choices": []}', "no chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "holds no text"),
    ],
)
def test_an_answer_that_cannot_be_used(endpoint: str, answer: bytes, why: str) -> None:
    """One sentence that names the endpoint and what is wrong."""
    _Endpoint.answer = answer
    with pytest.raises(InputError, match=why) as caught:
        open_writer(endpoint)("Why?", [], [])
    assert endpoint in str(caught.value)


def test_a_missing_writer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No endpoint, no model, no package: what is missing and where."""
    with pytest.raises(InputError, match="/v1/chat/completions does not answer"):
        open_writer("http://127.0.0.1:9/v1")("Why?", [], [])
    with pytest.raises(InputError, match=r"no config\.json"):
        open_writer(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(InputError, match="not a causal language model"):
        open_writer(str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "models.writer", None)
    with pytest.raises(InputError, match=r"pip install 'repartee\[train\]'"):
        open_writer(str(tmp_path))


def test_the_past_is_bounded() -> None:
    """A long conversation does not make the prompt ever longer."""
    past = [Exchange(str(number), "yes") for number in range(100)]
    chat = messages("last", [], past)
    assert len(chat) == 2 + 2 * 8
    assert chat[1]["content"] == "Question: 92"


def test_checked_text_is_as_written() -> None:
    """Known tokens stay."""
    assert checked("We <emph>do.", "here") == "We <emph>do."


def test_a_local_model_writes(tmp_path: Path) -> None:
    """A real, if random, causal model from a directory; the same answer every time."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = {
        word: index for index, word in enumerate(["[UNK]", "[EOS]", *["we", "sell", "good", "coffee", "every", "day"]])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]").save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=256, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    model.lm_head.weight.data[:2] = 0.0  # not the unknown word
    model.save_pretrained(tmp_path)
    write = open_writer(str(tmp_path))
    first = write("Why?", ["we sell coffee"], [])
    assert set(first.split()) <= set(words)
    assert write("Why?", ["we sell coffee"], []) == first
