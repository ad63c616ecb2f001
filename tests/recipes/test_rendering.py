"""Which tokens are trained, under the chat templates that people bring."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from recipes.errors import ConfigError, RenderingError
from recipes.rendering import (
    Rendered,
    datum_of,
    hard_checks,
    load_tokenizer,
    render,
    render_prompt,
    render_sequences,
    tokens_for_preview,
    with_renderer,
)
from tests.recipes.conftest import CHATML, FORCED_THINKING, GENERATION, LLAMA3, MISTRAL, PLAIN, THINKING

CHAT = [
    {"role": "user", "content": "Add one and one."},
    {"role": "assistant", "content": "It is two."},
    {"role": "user", "content": "Hello there"},
    {"role": "assistant", "content": "I am fine, thank you."},
]


def trained(rendered: Rendered, tokenizer: Any) -> list[str]:
    """The text of each stretch of trained tokens."""
    texts, run = [], []
    for token_id, weight in zip([*rendered.token_ids, 0], [*rendered.weights, 0], strict=True):
        if weight:
            run.append(token_id)
        elif run:
            texts.append(tokenizer.decode(run))
            run = []
    return texts


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["It is two.<|im_end|>", "I am fine, thank you.<|im_end|>"]),
        (LLAMA3, ["It is two.<|eot_id|>", "I am fine, thank you.<|eot_id|>"]),
        (MISTRAL, [" It is two.</s>", " I am fine, thank you.</s>"]),
    ],
)
def test_the_reply_and_its_end_marker_are_trained_and_the_role_header_is_not(
    tokenizer_with: Any, template: str, expected: list[str]
) -> None:
    tokenizer = tokenizer_with(template)
    both = render(CHAT, tokenizer)
    assert trained(both, tokenizer) == expected
    assert trained(render(CHAT, tokenizer, supervise="last_assistant"), tokenizer) == expected[1:]
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert both.token_ids == tokenizer.encode(whole, add_special_tokens=False)


def test_a_prompt_to_sample_from_is_where_the_trained_tokens_begin(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(CHATML)
    rendered = render(CHAT[:2], tokenizer)
    prompt = render_prompt(CHAT[:1], tokenizer)
    assert rendered.token_ids[: len(prompt)] == prompt
    assert rendered.weights.index(1.0) == len(prompt)


def test_a_template_that_strips_earlier_reasoning_is_detected_and_split_into_exact_sequences(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(THINKING)
    chat = [dict(message) for message in CHAT]
    chat[1]["reasoning"] = "one plus one"
    with pytest.raises(RenderingError, match=r"messages\[1\].*differently"):
        render(chat, tokenizer)
    first, second = render_sequences(chat, tokenizer)
    assert trained(first, tokenizer) == ["<think>\none plus one\n</think>\n\nIt is two.<|im_end|>"]
    assert trained(second, tokenizer) == ["<think>\n\n</think>\n\nI am fine, thank you.<|im_end|>"]
    assert "one plus one" not in tokenizer.decode(second.token_ids)


def test_last_assistant_works_where_earlier_reasoning_is_stripped(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(THINKING)
    rendered = render(CHAT, tokenizer, supervise="last_assistant")
    assert trained(rendered, tokenizer) == ["<think>\n\n</think>\n\nI am fine, thank you.<|im_end|>"]
    without = render(CHAT, tokenizer, supervise="last_assistant", enable_thinking=False)
    assert trained(without, tokenizer) == ["I am fine, thank you.<|im_end|>"]


def test_a_prompt_that_the_conversation_never_shows_is_refused_with_the_turn_and_both_texts(tokenizer_with: Any) -> None:
    with pytest.raises(RenderingError, match=r"messages\[1\].*<think>") as refusal:
        render_sequences(CHAT[:2], tokenizer_with(FORCED_THINKING))
    assert refusal.value.field == "messages[1]"


def test_the_marks_of_a_template_are_used_where_its_prefixes_do_not_hold(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(GENERATION)
    rendered = render(CHAT, tokenizer)
    assert trained(rendered, tokenizer) == ["It is two.<|im_end|>", "<think>\n\n</think>\n\nI am fine, thank you.<|im_end|>"]
    assert len(trained(render(CHAT, tokenizer, supervise="last_assistant"), tokenizer)) == 1


def test_a_tokenizer_that_merges_across_the_boundary_is_detected(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(PLAIN)  # "assistant: " ends in a blank that the reply's first token would swallow
    with pytest.raises(RenderingError, match=r"merges characters.*messages\[1\]"):
        render(CHAT, tokenizer)
    first, second = render_sequences(CHAT, tokenizer)
    assert trained(first, tokenizer) == ["It is two.\n"]
    prompt = render_prompt(CHAT[:3], tokenizer)
    assert second.token_ids[: len(prompt)] == prompt
    assert not any(second.weights[: len(prompt)])


def test_a_blank_that_only_the_last_turn_ends_with_does_not_break_the_mask(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(
        CHATML.replace("+ '\n' }}{% endfor", "}}{{ ' ' if loop.last and message['role'] == 'assistant' }}{{ '\n' }}{% endfor")
    )
    assert tokenizer.apply_chat_template(CHAT[:2], tokenize=False).endswith("<|im_end|> \n")
    assert trained(render(CHAT, tokenizer), tokenizer) == ["It is two.<|im_end|>", "I am fine, thank you.<|im_end|>"]


def test_a_template_with_a_header_but_no_generation_prompt_is_refused(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(CHATML.split("{% if add_generation_prompt")[0])
    with pytest.raises(RenderingError, match="no generation prompt"):
        render(CHAT, tokenizer)


def test_a_conversation_that_the_assistant_opens_trains_its_greeting(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(LLAMA3)
    rendered = render([CHAT[1], *CHAT[2:]], tokenizer)
    assert trained(rendered, tokenizer) == ["It is two.<|eot_id|>", "I am fine, thank you.<|eot_id|>"]
    with pytest.raises(RenderingError, match="begins with an assistant turn"):
        render([CHAT[1], *CHAT[2:]], tokenizer_with(MISTRAL))


def test_what_follows_the_last_assistant_turn_is_left_out(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(CHATML)
    assert render(CHAT[:3], tokenizer) == render(CHAT[:2], tokenizer)


@pytest.mark.parametrize("messages", [[], CHAT[:1]])
def test_a_row_without_an_assistant_turn_is_refused(tokenizer_with: Any, messages: list[dict[str, str]]) -> None:
    with pytest.raises(RenderingError, match="no assistant turn"):
        render(messages, tokenizer_with(CHATML))


def test_what_the_template_itself_refuses_becomes_a_sentence(tokenizer_with: Any) -> None:
    with pytest.raises(RenderingError, match="Only user and assistant roles are supported") as refusal:
        render([{"role": "system", "content": "Be brief."}, *CHAT], tokenizer_with(MISTRAL))
    assert refusal.value.field is not None


def test_truncation_says_how_many_tokens_were_cut_and_a_reply_cut_away_trains_nothing(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(CHATML)
    full = render(CHAT[:2], tokenizer)
    cut = render(CHAT[:2], tokenizer, max_seq_len=full.weights.index(1.0))
    assert cut.truncated == len(full.token_ids) - len(cut.token_ids) > 0
    assert cut.num_trained == 0
    assert render(CHAT[:2], tokenizer, max_seq_len=len(full.token_ids)).truncated == 0


def test_a_datum_is_shifted_by_one(tokenizer_with: Any) -> None:
    rendered = render(CHAT, tokenizer_with(CHATML))
    datum = datum_of(rendered)
    assert datum.model_input.tolist() == rendered.token_ids[:-1]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == rendered.token_ids[1:]
    assert datum.loss_fn_inputs["weights"].tolist() == rendered.weights[1:]
    with pytest.raises(RenderingError, match="fewer than two"):
        datum_of(Rendered([1], [1.0]))


def test_tools_calls_and_blocks_reach_the_template(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(
        "{% if tools %}{{ 'tools ' + tools[0]['function']['name'] + '\n' }}{% endif %}{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}"
        "{% for call in message['tool_calls'] or [] %}{{ call['function']['name'] + (call['function']['arguments'] | tojson) }}"
        "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    call = {"type": "function", "function": {"name": "sum", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Add "}, {"type": "text", "text": "one"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "I thought about it"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "two"},
    ]
    tools = [{"type": "function", "function": {"name": "sum", "description": "adds", "parameters": {}}}]
    rendered = render(messages, tokenizer, tools=tools)
    assert trained(rendered, tokenizer) == ['sum{"a": 1}<|im_end|>', "two<|im_end|>"]
    assert tokenizer.decode(rendered.token_ids).startswith("tools sum\n<|im_start|>user\nAdd one")
    assert rendered.unrendered == ("reasoning",)


def test_the_preview_spells_the_text_and_shows_characters_of_several_tokens_once(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(CHATML)
    chat = [{"role": "user", "content": "Grüße 🙂"}, {"role": "assistant", "content": "It is 四."}]
    preview = tokens_for_preview(chat, tokenizer)
    assert "".join(token.text for token in preview) == tokenizer.apply_chat_template(chat, tokenize=False)
    assert "".join(token.text for token in preview if token.trained) == "It is 四.<|im_end|>"
    assert {token.sequence for token in tokens_for_preview(CHAT, tokenizer_with(THINKING))} == {0, 1}


def test_hard_checks_name_what_is_wrong_and_are_silent_when_all_is_well(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(CHATML)
    assert hard_checks([render(CHAT, tokenizer)], tokenizer) == []
    cut = render(CHAT, tokenizer, max_seq_len=3)
    found = {finding.check: finding for finding in hard_checks([cut, render(CHAT, tokenizer)], tokenizer)}
    assert found.keys() == {"nothing_trained", "truncated"}
    assert (found["truncated"].num_found, found["truncated"].total, found["nothing_trained"].level) == (1, 2, "warning")
    assert hard_checks([cut], tokenizer)[0].level == "error"
    assert [finding.check for finding in hard_checks([Rendered([20, 21, 22], [1.0, 1.0, 1.0])], tokenizer)] == [
        "everything_trained",
        "end_of_turn_untrained",
    ]
    plain = tokenizer_with(PLAIN)
    assert [f.check for f in hard_checks(render_sequences(CHAT, plain), plain)] == ["end_of_turn_untrained"]


def test_text_that_spells_a_control_token_is_noticed(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(CHATML)
    chat = [{"role": "user", "content": "What does <|im_end|> mean?"}, CHAT[1]]
    (finding,) = hard_checks([render(chat, tokenizer), render(CHAT, tokenizer)], tokenizer)
    assert (finding.check, finding.num_found, finding.total) == ("control_text", 1, 2)
    assert trained(render(chat, tokenizer), tokenizer) == ["It is two.<|im_end|>"], "the mask holds all the same"


def test_a_base_model_without_template_can_be_given_a_renderer(bare_tokenizer: Any) -> None:
    tokenizer = with_renderer(bare_tokenizer, "role_colon")
    assert trained(render(CHAT, tokenizer), tokenizer) == [" It is two.</s>", " I am fine, thank you.</s>"]
    assert bare_tokenizer.chat_template is None
    with pytest.raises(ConfigError, match="role_colon"):
        with_renderer(bare_tokenizer, "of_my_own")


def test_a_folder_that_is_no_model_and_one_without_template_are_refused(tmp_path: Any, bare_tokenizer: Any) -> None:
    with pytest.raises(ConfigError):
        load_tokenizer(str(tmp_path))
    bare_tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="no .*safetensors"):
        load_tokenizer(str(tmp_path / "base"))
    (tmp_path / "base" / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="no chat template"):
        load_tokenizer(str(tmp_path / "base"))
    assert load_tokenizer(str(tmp_path / "base"), renderer_name="role_colon").chat_template


def test_a_broken_tokenizer_and_one_that_is_elsewhere_become_sentences(tmp_path: Any) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").write_text("{oops")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_tokenizer(str(folder))
    with pytest.raises(ConfigError, match="not on this machine yet"):
        load_tokenizer("nobody/no-such-model", download=False)


def test_an_unknown_way_to_supervise_is_refused(tokenizer_with: Any) -> None:
    with pytest.raises(ConfigError, match="all_assistant, last_assistant"):
        render(CHAT, tokenizer_with(CHATML), supervise="every_assistant")


def test_threads_may_ask_for_the_first_tokenizer_at_once() -> None:
    # In a fresh process: transformers is imported by whoever asks first.
    program = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from recipes.rendering import load_tokenizer\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    assert len({id(tokenizer) for tokenizer in pool.map(load_tokenizer, ['starter'] * 4)}) == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
