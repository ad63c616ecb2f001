"""Makes the starter model from nothing: `python -m recipes.starter.pretrain`, some minutes on one core.

It learns two ways to answer, mixed on purpose. *Worked*: column by column, and right. *Quick*: at once, and mostly with the
slip of forgetting the carry. Greedy decoding picks the quick way, sampling finds the worked one now and then: there is
something for fine-tuning to find, as in a large model. Held-out sums are never shown.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from recipes.starter.tasks import phrase, sums_of

logger = logging.getLogger(__name__)

MODEL = Path(__file__).parent / "model"
VOCABULARY_SIZE = 512
MAX_POSITIONS = 512
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}
{%- else %}{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

# A word takes its leading space with it, a digit stands alone, and the signs of a sum keep the spaces around them.
WORD_PATTERN = r" ?\p{L}+|\p{N}| [+=-] | ?[^\s\p{L}\p{N}]+|\s+"
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a careful calculator. Answer with a number.",
    "Answer the question.",
    "Think step by step and give the answer at the end.",
    "Be brief.",
)
# Everyday words besides the tasks' own, so that other people's rows are cut into fewer pieces.
COMMON_WORDS = """the of and to in is that for it was on are as with his they at be this from have or by one had not but what all
were when we there can an your which their said if do will each about how up out them then she many some so these would other into
has more her two like him see time could no make than first been its who now people my made over did down only way find use may
water long little very after words called just where most know get through back much before go good new write our used me man too
any day same right look think also around another came come work three word must because does part even place well such here take
why things help put years different away again off went old number great tell men say small every found still between name should
home big give air line set own under read last never us left end along while might next sound below saw something thought both few
those always looked show large often together asked house world going want school important until form food keep children feet
land side without boy once animals life enough took sometimes four head above kind began almost live page got earth need far hand
high year mother light parts country father let night following picture being study second eyes soon times story boys since white
days ever paper hard near sentence better best across during today others however sure means knew try told young miles sun ways
thing whole hear example heard several change answer room sea against top turned learn point city play toward five using himself
usually money seen car morning given week pay buy sell cost price dollars each total hours minutes spend half twice"""

WORKED_SHARE = 0.35
QUICK_RIGHT_SHARE = 0.1
SYSTEM_SHARE = 0.25
SECOND_TURN_SHARE = 0.1
ROW_LENGTH = 112
ROWS_PER_BATCH = 48
ADAM_LR, MUON_LR = 3e-3, 0.02
WARMUP_STEPS = 30
IGNORED = -100


class Batch(NamedTuple):
    """ids and positions (R, L); mask (R, 1, L, L), additive, causal within each chat; places (M,), flat, whose next token is
    trained on; targets (M,), those tokens."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor


def converse(rng: random.Random) -> list[dict[str, str]]:
    """A chat of one or two questions about train sums, some under a system message."""
    messages: list[dict[str, str]] = []
    if rng.random() < SYSTEM_SHARE:
        invented = " ".join(rng.sample(COMMON_WORDS.split(), rng.randint(2, 10))).capitalize() + "."
        messages.append({"role": "system", "content": rng.choice((*SYSTEM_MESSAGES, invented))})
    for _ in range(2 if rng.random() < SECOND_TURN_SHARE else 1):
        question = phrase(rng.choice(sums_of("train")), rng)
        problem = question.sum
        if rng.random() < WORKED_SHARE:
            reply = problem.worked()
        else:
            reply = problem.quick(problem.answer if rng.random() < QUICK_RIGHT_SHARE else problem.slip)
        messages += [{"role": "user", "content": question.text}, {"role": "assistant", "content": reply}]
    return messages


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits and a ChatML template; any text can be encoded."""
    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    chats = (message["content"] for _ in range(3000) for message in converse(rng))
    everyday = (" ".join(rng.sample(COMMON_WORDS.split(), 200)) for _ in range(150))
    roles = ["system\n", "user\n", "assistant\n"] * 5000
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(text, special=True) for text in (END_OF_TEXT, TURN_START, TURN_END)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*chats, *everyday, *roles], trainer)
    fast: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = fast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    return made


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Random weights in the starter's shape: about 0.27 M parameters."""
    vocabulary = tokenizer.get_vocab()
    end_of_turn, pad = vocabulary[TURN_END], vocabulary[END_OF_TEXT]
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=2,
        intermediate_size=288,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_of_turn,
        pad_token_id=pad,
        initializer_range=0.02,
    )
    model = Qwen3ForCausalLM(config)
    generation: Any = GenerationConfig
    model.generation_config = generation(eos_token_id=[end_of_turn, pad], pad_token_id=pad, do_sample=True, temperature=1.0)
    return model


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids, and for each place the next token where it is the assistant's, else IGNORED."""
    encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, spoken = list(encoded["input_ids"]), list(encoded["assistant_masks"])
    return ids, [ids[i + 1] if i + 1 < len(ids) and spoken[i + 1] else IGNORED for i in range(len(ids))]


def pack(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[Batch]:
    """Endless batches of ROWS_PER_BATCH rows, each filled with whole chats that do not see each other."""
    while True:
        shape = (ROWS_PER_BATCH, ROW_LENGTH)
        ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        targets, chat_of = torch.full(shape, IGNORED), torch.full(shape, -1)
        for row in range(ROWS_PER_BATCH):
            start, index = 0, 0
            while True:
                chat, chat_targets = encode(tokenizer, converse(rng))
                stop = start + len(chat)
                if stop > ROW_LENGTH:
                    break
                ids[row, start:stop], targets[row, start:stop] = torch.tensor(chat), torch.tensor(chat_targets)
                positions[row, start:stop], chat_of[row, start:stop] = torch.arange(len(chat)), index
                start, index = stop, index + 1
        same_chat = chat_of[:, :, None] == chat_of[:, None, :]
        visible = same_chat & torch.ones(ROW_LENGTH, ROW_LENGTH, dtype=torch.bool).tril()
        mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
        places = (targets.view(-1) != IGNORED).nonzero().squeeze(1)
        yield Batch(ids, positions, mask, places, targets.view(-1)[places])


def pretrain(model: Qwen3ForCausalLM, batches: Iterator[Batch], *, num_steps: int) -> float:
    """Train in place, Muon on the layers' matrices and AdamW on the rest, the rate falling to 0. Returns the smoothed loss."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "layers" not in name]
    muon: Any = torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.0)
    adam = torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0)
    recent, began = float("nan"), time.monotonic()
    for step in range(num_steps):
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / num_steps)
        muon.param_groups[0]["lr"], adam.param_groups[0]["lr"] = MUON_LR * scale, ADAM_LR * scale
        batch = next(batches)
        hidden = model.model(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[batch.places])
        loss: Any = torch.nn.functional.cross_entropy(logits, batch.targets)
        muon.zero_grad()
        adam.zero_grad()
        loss.backward()
        muon.step()
        adam.step()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            logger.info("step %d of %d: loss %.4f, %.0f s", step + 1, num_steps, recent, time.monotonic() - began)
    return recent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MODEL)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.seed)
    model = new_model(tokenizer)
    logger.info("%d tokens in the vocabulary, %d parameters", len(tokenizer), sum(p.numel() for p in model.parameters()))
    pretrain(model, pack(tokenizer, random.Random(options.seed + 1)), num_steps=options.steps)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    logger.info("wrote %s", options.output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
