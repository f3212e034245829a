"""The tests every engine must pass: subclass `EmbedderContract`, give it an `embedder` fixture."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image as PILImage

from ume_core.embedder import Embedder, Sampling
from ume_core.errors import (
    InvalidItem,
    InvalidOption,
    MediaError,
    ModeNotSupported,
    SignatureMismatch,
    UmeError,
)
from ume_core.items import Image, ItemLike, Text, Video
from ume_core.plugins import registry
from ume_core.session import open_session
from ume_core.signature import Mode


def picture(seed: int, width: int = 84, height: int = 84) -> PILImage.Image:
    """A seeded picture with some structure."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return PILImage.fromarray(coarse).resize((width, height), PILImage.Resampling.BICUBIC)


def mixed_items() -> list[ItemLike]:
    """One item of every modality and several spellings."""
    return [
        "a red apple",
        Image(picture(1)),
        {"image": picture(2, 112, 56), "text": "what is it?"},
        [Text("which one?"), Image(picture(3)), Image(picture(4, 56, 84))],
        Video([picture(s) for s in range(4)]),
        [{"role": "user", "content": [
            {"type": "image", "image": picture(5)},
            {"type": "text", "text": "Represent the given image.\n<disc_emb>\n"},
        ]}],
    ]  # fmt: skip


class EmbedderContract:
    """Subclass in an engine's tests:

    ```python
    class TestMyEngine(EmbedderContract):
        @pytest.fixture(scope="class")
        @classmethod
        def embedder(cls):
            return my_engine(...)
    ```

    `registered` is False for an embedder that no `BackendSpec` names.
    `tolerance` is the largest difference between an item's vector alone and in a batch that the
    engine states for its dtype; `temperature` one that the engine takes at which a trained model
    does not say the same thing twice.
    """

    registered: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5
    temperature: ClassVar[float] = 5.0

    def modes(self, embedder: Embedder) -> list[Mode]:
        """Modes to test."""
        return sorted(embedder.modes)

    def test_fulfils_the_protocol(self, embedder: Embedder) -> None:
        assert isinstance(embedder, Embedder)

    def test_its_name_is_an_engine_that_can_be_asked_for(self, embedder: Embedder) -> None:
        """Messages, records and `engine=` use it; an embedder of several joins them with `+`."""
        if not self.registered:
            pytest.skip("no engine of its own")
        known = registry().backends
        if not known:
            pytest.skip("no distribution is installed: the sources are used as they lie")
        for name in embedder.name.split("+"):
            assert name in known, f"{name!r} is no BackendSpec's name: {', '.join(known)}"
        modes = frozenset[Mode]().union(*(known[n].modes for n in embedder.name.split("+")))
        assert embedder.modes <= modes

    def test_vectors_are_unit_float32_in_input_order(self, embedder: Embedder) -> None:
        items = mixed_items()
        for mode in self.modes(embedder):
            result = embedder.embed(items, mode=mode, max_new_tokens=8)
            assert (result.disc is None) == (mode == "gen")
            assert (result.gen is None) == (mode == "disc")
            for vectors in (result.disc, result.gen):
                if vectors is not None:
                    assert vectors.dtype == np.float32
                    assert vectors.shape == (len(items), embedder.dimensions)
                    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
            assert len(result.records) == len(items)
            assert result.signature == embedder.signature(mode)

    def test_alone_equals_in_a_batch_in_any_order(self, embedder: Embedder) -> None:
        items = mixed_items()
        for mode in self.modes(embedder):
            batch = embedder.embed(items, mode=mode, max_new_tokens=8)
            backwards = embedder.embed(items[::-1], mode=mode, max_new_tokens=8)
            for row, item in enumerate(items):
                alone = embedder.embed([item], mode=mode, max_new_tokens=8)
                turned = backwards.records[::-1][row]
                assert batch.records[row].samples == alone.records[0].samples == turned.samples
                for one, many, other in (
                    (alone.disc, batch.disc, backwards.disc),
                    (alone.gen, batch.gen, backwards.gen),
                ):
                    if one is not None and many is not None and other is not None:
                        np.testing.assert_allclose(many[row], one[0], atol=self.tolerance)
                        np.testing.assert_allclose(other[::-1][row], one[0], atol=self.tolerance)

    def test_different_content_gives_different_vectors(self, embedder: Embedder) -> None:
        mode = self.modes(embedder)[0]
        result = embedder.embed(mixed_items(), mode=mode, max_new_tokens=8)
        vectors = result.disc if result.disc is not None else result.gen
        assert vectors is not None
        distances = np.abs(vectors[:, None] - vectors[None]).max(axis=-1)
        assert distances[~np.eye(len(vectors), dtype=bool)].min() > 1e-4

    def test_a_session_gives_every_caller_the_vectors_of_embed(self, embedder: Embedder) -> None:
        items = mixed_items()
        with open_session(embedder) as session:
            for mode in self.modes(embedder):
                futures = [session.submit(item, mode=mode, max_new_tokens=6) for item in items]
                alone = embedder.embed(items, mode=mode, max_new_tokens=6)
                for index, future in enumerate(futures):
                    found = future.result()
                    assert found.record.status == alone.records[index].status
                    assert found.signature == alone.signature
                    pairs = (found.disc, alone.disc), (found.gen_samples, alone.gen_samples)
                    for one, several in pairs:
                        assert (one is None) == (several is None)
                        if one is not None and several is not None:
                            np.testing.assert_allclose(one, several[index], atol=self.tolerance)

    def test_a_sessions_bad_item_fails_alone(self, embedder: Embedder) -> None:
        with open_session(embedder) as session:
            good, bad = session.submit("fine"), session.submit(Image(b"not an image"))
            with pytest.raises(MediaError, match="Fix: "):
                bad.result()
            assert good.result().disc is not None

    def test_the_plainest_pictures_have_vectors(self, embedder: Embedder) -> None:
        items = [Image(PILImage.new("RGB", (1, 1))), Image(PILImage.new("RGB", (40, 40)))]
        found = embedder.embed(items).disc
        assert found is not None
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)

    def test_instruction_changes_the_vector(self, embedder: Embedder) -> None:
        plain, told = (
            embedder.embed(["a dog"], mode="disc", instruction=i)
            for i in (None, "Find the picture:")
        )
        assert plain.disc is not None and told.disc is not None
        assert np.abs(plain.disc - told.disc).max() > 1e-4

    def test_samples_are_reproducible_and_separate(self, embedder: Embedder) -> None:
        if "gen" not in embedder.modes:
            pytest.skip("the engine has no gen mode")
        sampling = Sampling(n=3, temperature=self.temperature, seed=5)
        many = embedder.embed(["a", "b"], mode="gen", sampling=sampling, max_new_tokens=8)
        alone = embedder.embed(["b"], mode="gen", sampling=sampling, max_new_tokens=8)
        assert many.gen_samples is not None and alone.gen_samples is not None
        assert many.gen_samples.shape == (2, 3, embedder.dimensions)
        np.testing.assert_allclose(many.gen_samples[1], alone.gen_samples[0], atol=self.tolerance)
        assert np.abs(many.gen_samples[0, 0] - many.gen_samples[0, 1]).max() > 1e-4

    def test_a_missing_mode_names_the_engine_that_has_it(self, embedder: Embedder) -> None:
        if "gen" in embedder.modes:
            pytest.skip("the engine has every mode")
        with pytest.raises(ModeNotSupported, match="Fix: use an engine that has it"):
            embedder.embed(["a"], mode="gen")

    def test_signatures_of_different_modes_do_not_compare(self, embedder: Embedder) -> None:
        disc = embedder.signature("disc")
        disc.check(disc)
        if not disc.aligned:
            with pytest.raises(SignatureMismatch, match="mode"):
                disc.check(disc.for_mode("gen"))

    @pytest.mark.parametrize("typed", ["<disc_emb>", "<gen_emb>", "<|image_pad|>", "<|im_end|>"])
    def test_typed_special_tokens_are_ordinary_text(self, embedder: Embedder, typed: str) -> None:
        mode = "both" if "both" in embedder.modes else "disc"
        items: list[ItemLike] = [f"x {typed} y", {"text": typed, "image": picture(6)}]
        result = embedder.embed(items, mode=mode, max_new_tokens=4)
        assert result.disc is not None and np.isfinite(result.disc).all()

    @pytest.mark.parametrize(
        ("bad", "kind"),
        [
            ("", InvalidItem),
            ([], InvalidItem),
            (3, InvalidItem),
            (np.full((8, 8, 3), np.nan), InvalidItem),
            (np.zeros((8, 8, 7), np.uint8), InvalidItem),
            (Video([]), InvalidItem),
            (Image(b""), MediaError),
            (Image(b"not an image"), MediaError),
            (Image("no/such/file.png"), MediaError),
        ],
        ids=str,
    )
    def test_bad_items_are_named_and_the_others_kept(
        self, embedder: Embedder, bad: Any, kind: type[UmeError]
    ) -> None:
        with pytest.raises(kind, match=r"item 1: .*Fix: "):
            embedder.embed(["fine", bad], mode="disc")
        result = embedder.embed(["fine", bad, "good"], mode="disc", on_error="record")
        assert [r.status for r in result.records] == ["ok", "failed", "ok"]
        assert result.records[1].reason
        assert result.disc is not None
        assert np.isfinite(result.disc[[0, 2]]).all() and np.isnan(result.disc[1]).all()

    @pytest.mark.parametrize("bad", ["one string", {"text": "a"}, [], 3, None])
    def test_what_is_no_list_of_items_is_refused(self, embedder: Embedder, bad: Any) -> None:
        with pytest.raises(InvalidItem, match="Fix: "):
            embedder.embed(bad)

    def test_an_unknown_mode_is_refused(self, embedder: Embedder) -> None:
        wrong: Any = "dics"
        with pytest.raises(InvalidOption, match="disc, gen, both"):
            embedder.embed(["a"], mode=wrong)
