"""The configuration of each stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ume_train.config.sections import (
    DataSection,
    EvaluateSection,
    ModelSection,
    OptimizerSection,
    RunSection,
    Section,
)


class StageConfig(Section):
    """What both stages have."""

    model: ModelSection
    data: DataSection
    optimizer: OptimizerSection
    run: RunSection
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _has_data(self) -> StageConfig:
        if bool(self.data.files) == bool(self.data.drawn):
            raise ValueError("data: give files, or drawn pairs, and not both")
        return self


class SFTBatch(Section):
    """How an optimizer step is made up. None of it depends on the number of processes.

    Attributes:
        pairs: pairs contrasted together: one positive and pairs - 1 negatives each.
        accumulate: such groups in a step.
        chunk: most pairs of one forward pass of a process. Where its share is larger, vectors are
            computed first and gradients through them chunk by chunk (GradCache, arXiv 2101.06983).
    """

    pairs: int = Field(ge=2)
    accumulate: int = Field(default=1, ge=1)
    chunk: int = Field(ge=1)


class SFTLoss(Section):
    """The terms and their weights; 0 leaves a term out.

    Attributes:
        temperature: of all InfoNCE terms.
        similarity: precision of the similarities. In bfloat16 the step at 40 is 0.25.
        disc, gen: InfoNCE of the two vectors, both directions.
        ce: next-token cross-entropy, the mean over a side's tokens, of the queries plus of the
            targets.
        ce_pairs: pairs over whose tokens a mean is taken before means are averaged; null takes
            all of them. Published: each device's 4.
        align: InfoNCE(gen query, disc target) and InfoNCE(disc query, gen target), their mean, so
            that vectors of one kind find those of the other.
        align_stop: keep disc where it is and move gen only.
        align_from: share of the steps before alignment begins.
        follow: 1 - cosine of each gen vector to its own disc vector, which stays.
        teacher: softmax over a batch's text-teacher vectors, where a source has them.
        matryoshka: lengths at which vectors are cut, all terms averaged over them and the whole.
        mask_duplicates: pairs whose other side is the same item are no negatives of each other.
        mask_margin: negatives within this of the positive's cosine, or above, are left out; null
            keeps them (2 keeps none).
        hardness: added to a negative's logit per cosine (LLaVE, arXiv 2503.04812, uses 9).
    """

    temperature: float = Field(default=0.02, gt=0)
    similarity: Literal["float32", "bfloat16"] = "float32"
    disc: float = Field(default=1.0, ge=0)
    gen: float = Field(default=1.0, ge=0)
    ce: float = Field(default=1.0, ge=0)
    ce_pairs: int | None = Field(default=None, ge=1)
    align: float = Field(default=0.0, ge=0)
    align_stop: bool = True
    align_from: float = Field(default=0.1, ge=0, lt=1)
    follow: float = Field(default=0.0, ge=0)
    teacher: float = Field(default=0.0, ge=0)
    matryoshka: tuple[int, ...] = ()
    mask_duplicates: bool = True
    mask_margin: float | None = None
    hardness: float = Field(default=0.0, ge=0)


class SFTConfig(StageConfig):
    """`ume train sft`."""

    batch: SFTBatch
    loss: SFTLoss = SFTLoss()

    @model_validator(mode="after")
    def _fits(self) -> SFTConfig:
        group = self.loss.ce_pairs
        if group is not None and (self.batch.pairs % group or self.batch.chunk % group):
            raise ValueError("loss.ce_pairs must divide batch.pairs and batch.chunk")
        return self


class GRPOBatch(Section):
    """How an optimizer step is made up. None of it depends on the number of processes.

    Attributes:
        pairs_per_reward: pairs whose rollouts are told apart.
        accumulate: such groups in a step.
        chunk: most rollouts of one training forward pass of a process.
    """

    pairs_per_reward: int = Field(ge=2)
    accumulate: int = Field(default=1, ge=1)
    chunk: int = Field(ge=1)


class Rollouts(Section):
    """How answers are sampled.

    Attributes:
        generations: answers of each query and of each target.
        new_tokens: most tokens of one.
        temperature, top_k, top_p: as of `ume_core.Sampling`. Log-probabilities are the full
            softmax's at temperature 1, so other values train off-policy.
        length_alarm: warn when a step's mean length is more than this factor above or below the
            first step's.
    """

    generations: int = Field(default=8, ge=2)
    new_tokens: int = Field(default=2048, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    length_alarm: float = Field(default=2.0, gt=1)


class Reward(Section):
    """What an answer is worth.

    Attributes:
        embedding: the formula of `ume_train.grpo.rewards.embedding_reward`.
        weight, format_weight: of the two parts.
        whole_form: the whole answer must have the published form, not only a part of it.
        scale: divide advantages by the group's standard deviation.
    """

    embedding: Literal["top_share", "margin_soft"] = "top_share"
    weight: float = Field(default=1.0, ge=0)
    format_weight: float = Field(default=1.0, ge=0)
    whole_form: bool = True
    scale: bool = True


class PolicyLoss(Section):
    """The clipped objective.

    Attributes:
        beta: of the KL divergence to the start (k3 estimate, per token); 0 needs no reference.
        epsilon_low, epsilon_high: how far a ratio of probabilities counts.
        iterations: updates on the same rollouts; with 1 the ratio is exactly 1.
        length: tokens that a row's sum is divided by; null takes rollouts.new_tokens (Dr. GRPO,
            arXiv 2503.20783: long answers are not favoured).
        kl_alarm: warn when the mean KL of a step exceeds it.
    """

    beta: float = Field(default=0.04, ge=0)
    epsilon_low: float = Field(default=0.2, gt=0)
    epsilon_high: float = Field(default=0.28, gt=0)
    iterations: int = Field(default=1, ge=1)
    length: int | None = Field(default=None, ge=1)
    kl_alarm: float = Field(default=1.0, gt=0)


class GRPOConfig(StageConfig):
    """`ume train grpo`."""

    batch: GRPOBatch
    rollouts: Rollouts = Rollouts()
    reward: Reward = Reward()
    loss: PolicyLoss = PolicyLoss()

    @model_validator(mode="after")
    def _fits(self) -> GRPOConfig:
        if self.run.save_every % self.loss.iterations:
            raise ValueError("loss.iterations must divide run.save_every")
        return self
