"""Tiny trainers, rewards and rollouts for the tests of the TRL integration."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

torch.set_num_threads(1)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens: a BPE without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=258,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
    )


def trainer(
    kind: Any, tmp_path: Path, reward: Any, rollout_func: Any = None, **settings: Any
) -> Any:
    """A trainer on 8 prompts; `settings` for it and for its configuration."""
    names = ("credit", "credit_options", "like", "loss", "loss_options")
    own = {k: settings.pop(k) for k in names if k in settings}
    config = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "seed": 3,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    prompts = Dataset.from_dict({"prompt": [f"{i} + {i} = " for i in range(8)]})
    return kind(
        model(),
        reward,
        args=trl.GRPOConfig(**{**config, **settings}),
        train_dataset=prompts,
        processing_class=tokenizer(),
        rollout_func=rollout_func,
        **own,
    )


def vowels(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(i % 5 == 0 for i in ids) / len(ids) for ids in completion_ids]


def sometimes(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """Absent for every other completion."""
    return [len(ids) % 3 + ids[0] / 97 if k % 2 else None for k, ids in enumerate(completion_ids)]


TURNS = ((3, 2), (2, 0), (4, 3), (1, 0))  # tokens of the model, tokens of the environment


def two_turns(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Random tokens in one, two or one turn, with rewards and states."""
    draw = np.random.default_rng(trainer.state.global_step)
    out: dict[str, list[Any]] = {
        name: [] for name in ("prompt_ids", "completion_ids", "env_mask", "turn_rewards", "anchors")
    }
    for k, prompt in enumerate(prompts):
        spans = TURNS[2 * (k % 2) :][: 1 + (k % 3 != 0)]
        mask = [bit for own, tool in spans for bit in [1] * own + [0] * tool]
        out["prompt_ids"].append(trainer.processing_class(prompt)["input_ids"])
        out["completion_ids"].append(draw.integers(0, 256, len(mask)).tolist())
        out["env_mask"].append(mask)
        turns = 1 if len(spans) == 1 else 2
        out["turn_rewards"].append(draw.normal(size=turns).tolist())
        out["anchors"].append(["start", f"room {draw.integers(2)}"][:turns])
    return {**out, "logprobs": None}


def total(turn_rewards: list[list[float]], **_: Any) -> list[float]:
    return [sum(row) for row in turn_rewards]


def train(run: Any) -> None:
    torch.manual_seed(7)  # the same completions whatever was sampled before
    run.train()


# Adam divides a gradient of rounding errors by its size, which hides how near two runs are.
PLAIN = {"optim": "sgd", "learning_rate": 0.1}


def losses(run: Any) -> list[float]:
    return [row["loss"] for row in run.state.log_history if "loss" in row]


def weights(run: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])


def batch(run: Any, **extra: Any) -> Any:
    """What the trainer's loss would be given for its first batch."""
    run.model.train()
    rows = [{"prompt": f"{i // 4} = ", **extra} for i in range(8)]
    run.current_gradient_accumulation_steps = 1
    return run._generate_and_score_completions(rows)


def sampled_log_probs(run: Any, out: Any) -> torch.Tensor:
    """`(B, T)` log-probabilities of the completions' tokens."""
    log_probs, _, _ = run._get_per_token_logps_and_entropies(
        run.model,
        torch.cat([out["prompt_ids"], out["completion_ids"]], 1),
        torch.cat([out["prompt_mask"], out["completion_mask"]], 1),
        out["completion_ids"].shape[1],
    )
    return log_probs.detach()
