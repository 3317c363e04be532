"""A server with OpenAI's completions endpoints on localhost, over the tiny model of the tests.

Plain decoding, one request at a time, nothing of `apportion` in it. As a program it prints
its port and serves until it is killed; `Server` does the same in a thread, with faults.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from tiny_model import model, tokenizer

torch.set_num_threads(1)


class Server(ThreadingHTTPServer):
    """`faults`: what happens to the next requests, in order.

    A number is a status; `"cut"` breaks the stream after its first event; `"hang"` says
    nothing for five seconds; `"junk"` sends no JSON.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.tokenizer, self.lock = model(), tokenizer(), threading.Lock()
        self.faults: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.ignores: set[str] = set()  # fields of requests that it does not know
        self.thinks = False  # whether a chat's first tokens are thoughts

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append({**body, "authorization": self.headers["Authorization"]})
            fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Retry-After", "0.01")
            self.end_headers()
            self.wfile.write(b"no, not now")
            return
        if fault == "hang":
            time.sleep(5)
            return
        self.send_response(200)
        self.end_headers()
        body = {k: v for k, v in body.items() if k not in self.server.ignores}
        chats = self.path.endswith("/chat/completions")
        if chats:
            body["prompt"] = templated(body)
            if body.pop("logprobs", False):
                body["logprobs"] = body["top_logprobs"]
        try:
            if body.get("stream"):
                self.stream(body, fault, self.as_chat if chats else dict)
            else:
                whole = self.whole(body, self.as_chat if chats else dict)
                self.wfile.write(b"{" if fault == "junk" else json.dumps(whole).encode())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has read enough

    def as_chat(self, choice: dict[str, Any]) -> dict[str, Any]:
        """A choice in the chat's form."""
        said = {"reasoning_content" if self.server.thinks else "content": choice["text"]}
        out = {"delta": said, "message": said, "finish_reason": choice.get("finish_reason")}
        if found := choice.get("logprobs"):
            top = [{"token": t, "logprob": p} for t, p in found["top_logprobs"][0].items()]
            token = {"token": found["tokens"][0], "logprob": found["token_logprobs"][0]}
            out["logprobs"] = {"content": [{**token, "top_logprobs": top}]}
        return out

    def stream(self, body: dict[str, Any], fault: str | None, form: Any) -> None:
        for number, choice in enumerate(self.tokens(body)):
            if fault == "junk":
                self.wfile.write(b"data: [1\n\n")
                return
            self.event({"choices": [form(choice)]})
            if fault == "cut" and number == 0:
                return
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    @torch.inference_mode()
    def tokens(self, body: dict[str, Any]) -> Any:
        """Choices of one token each, then one that says why it ended."""
        ids = self.server.tokenizer(body["prompt"], add_special_tokens=False).input_ids
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        temperature = body.get("temperature", 1.0)
        for _ in range(body["max_tokens"]):
            with self.server.lock:
                logits = self.server.model(torch.tensor([ids])).logits[0, -1]
            if temperature == 0:
                token = int(logits.argmax())
            else:
                chances = (logits / temperature).softmax(-1)
                token = int(torch.multinomial(chances, 1, generator=generator))
            if token == self.server.tokenizer.eos_token_id:
                yield {"text": "", "finish_reason": "stop"}
                return
            ids.append(token)
            text = chr(token % 95 + 32) if token % 7 else "\n"
            choice = {"text": text, "finish_reason": None}
            if "logprobs" in body:
                log_probs = logits.log_softmax(-1)
                best = log_probs.topk(max(1, body["logprobs"]))
                names = [self.server.tokenizer.decode([i]) for i in best.indices.tolist()]
                top = dict(zip(names, best.values.tolist(), strict=True))
                choice["logprobs"] = {
                    "tokens": [text],
                    "token_logprobs": [float(log_probs[token])],
                    "top_logprobs": [top],
                }
            yield choice
        yield {"text": "", "finish_reason": "length"}

    @torch.inference_mode()
    def whole(self, body: dict[str, Any], form: Any) -> dict[str, Any]:
        """One answer; with `echo` the prompt's tokens too."""
        choices = list(self.tokens(body))
        out: dict[str, Any] = {"text": "".join(c["text"] for c in choices)}
        if "logprobs" in body:
            out["logprobs"] = choices[0].get("logprobs")
        if body.get("echo"):
            prompt = body["prompt"]
            ids = self.server.tokenizer(prompt, add_special_tokens=False).input_ids
            with self.server.lock:
                logits = self.server.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            after = [float(logits[i - 1, ids[i]]) for i in range(1, len(ids))]
            out["logprobs"] = {
                "tokens": [*prompt, "?"],
                "token_logprobs": [None, *after, -1.0],
                "text_offset": list(range(len(prompt) + 1)),
            }
        size = len(self.server.tokenizer(body["prompt"], add_special_tokens=False).input_ids)
        return {"choices": [form(out)], "usage": {"prompt_tokens": size}}


def templated(body: dict[str, Any]) -> str:
    """A chat as a prompt; its last message is left open where it is to be gone on with."""
    said = "".join(f"<{m['role']}>{m['content']}</>" for m in body["messages"])
    if body.get("continue_final_message"):
        assert not body["add_generation_prompt"] and body["messages"][-1]["role"] == "assistant"
        return said.removesuffix("</>")
    return said + "<assistant>"


if __name__ == "__main__":
    server = Server()
    print(server.url, flush=True)
    server.serve_forever()
