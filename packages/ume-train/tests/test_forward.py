"""The one pass, against transformers' own model and against each row alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from ume_core import Image, Item, Text, Video
from ume_qwen.checkpoint import find_checkpoint
from ume_torch.checkpoint import load_model
from ume_train.config.sections import ModelSection
from ume_train.data.pairs import Answer, Example
from ume_train.forward import Policy
from ume_train.rendering import Renderings, Sequences, appended


@pytest.mark.parametrize("kind", ["image_token_id", "video_token_id"])
def test_a_media_token_that_was_sampled_is_a_token_like_others(
    policy: Policy, rows: Sequences, kind: str
) -> None:
    model, learned = policy.model, rows.learned[2]
    prompt = rows.prompts[2].until(learned)
    row = appended(prompt, [100, getattr(model.config, kind), 101])
    (media,) = prompt.media
    places = torch.from_numpy(row.positions)[:, None]
    ids = torch.from_numpy(row.ids)[None]
    with torch.no_grad():
        before = model(
            input_ids=ids[:, :learned], position_ids=places[..., :learned], use_cache=True,
            pixel_values=torch.from_numpy(media.patches), image_grid_thw=torch.tensor([media.grid]),
            mm_token_type_ids=(ids[:, :learned] == model.config.image_token_id).long(),
        )  # fmt: skip
        after = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(ids[:, learned:]),
            position_ids=places[..., learned:], past_key_values=before.past_key_values,
        )  # fmt: skip
        found = policy.states([row])[learned:]
    torch.testing.assert_close(found, after.last_hidden_state[0], atol=2e-4, rtol=0)


@pytest.fixture(scope="module")
def policy(nano: Path) -> Policy:
    model = load_model(find_checkpoint(nano), "cpu", "float32", "eager")
    return Policy(model, Renderings(find_checkpoint(nano), ModelSection(start=""), (), 999)
                  .tokenizer.special.pad, bf16=False, even=False)  # fmt: skip


@pytest.fixture(scope="module")
def rows(nano: Path) -> Sequences:
    render = Renderings(find_checkpoint(nano), ModelSection(start="nano"), (), 4096)
    noise = np.random.default_rng(0).integers(0, 255, (4, 84, 84, 3), dtype=np.uint8)
    parts = [Text("a"), Text("word " * 30), Image(PILImage.fromarray(noise[0])), Video(noise)]
    return render(
        [Example(Item((part,)), Answer("It shows x.", "x")) for part in parts], answers=True
    )


def test_rows_of_any_lengths_have_the_states_each_has_alone(
    policy: Policy, rows: Sequences
) -> None:
    with torch.no_grad():
        together = policy(rows)
        alone = [policy(rows.select([n])) for n in range(len(rows))]
    torch.testing.assert_close(together.disc, torch.cat([a.disc for a in alone]), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.gen, torch.cat([a.gen for a in alone]), atol=1e-4, rtol=0)
    logs = torch.cat([a.log_probs for a in alone])
    torch.testing.assert_close(together.log_probs, logs, atol=1e-4, rtol=0)


def test_equal_calls_on_all_processes_give_the_same(policy: Policy, rows: Sequences) -> None:
    even = Policy(policy.model, policy.pad, bf16=False, even=True)
    with torch.no_grad():
        for found, wanted in zip(even(rows), policy(rows), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
        words = rows.select([0, 1])
        blank = even(words).disc  # no media at all: one blank picture is seen, and has no effect
        torch.testing.assert_close(blank, policy(words).disc, atol=1e-4, rtol=0)


def test_it_is_transformers_forward(policy: Policy, rows: Sequences) -> None:
    prompt = rows.prompts[3]  # the video
    (media,) = prompt.media
    ids = torch.from_numpy(prompt.ids)[None]
    with torch.no_grad():
        out = policy.model(
            input_ids=ids,
            pixel_values_videos=torch.from_numpy(media.patches),
            video_grid_thw=torch.tensor([media.grid]),
            mm_token_type_ids=2 * (ids == policy.model.config.video_token_id).long(),
            output_hidden_states=True,
        )
        found = policy(rows.select([3]))
    states = out.hidden_states[-1][0]
    torch.testing.assert_close(found.disc[0], states[rows.disc[3]], atol=2e-4, rtol=0)
    torch.testing.assert_close(found.gen[0], states[rows.gen[3]], atol=2e-4, rtol=0)
    learned = rows.learned[3]
    logs = out.logits[0, learned - 1 : -1].log_softmax(-1)
    expected = logs.gather(1, ids[0, learned:, None])[:, 0]
    torch.testing.assert_close(found.log_probs, expected, atol=2e-4, rtol=0)


def test_what_is_learned_is_the_published_answer(nano: Path, rows: Sequences) -> None:
    render = Renderings(find_checkpoint(nano), ModelSection(start="nano"), (), 4096)
    for prompt, learned, gen in zip(rows.prompts, rows.learned, rows.gen, strict=True):
        text = render.tokenizer.decode(prompt.ids[learned:].tolist())
        assert text == "<think>It shows x.</think><answer>x<gen_emb><|im_end|>\n"
        assert prompt.ids[gen] == render.tokenizer.special.gen


def test_a_pass_that_does_not_see_its_media_is_refused(policy: Policy, rows: Sequences) -> None:
    blind = replace(rows.prompts[2], media=())
    with pytest.raises(RuntimeError, match="media tokens, and 0 features"):
        policy(replace(rows.select([2]), prompts=[blind]))
