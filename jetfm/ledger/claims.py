"""What the papers claim: every quantitative or directional statement that the ledger judges.

The tolerances of numbers are our choice: they are what we would accept as the same result from
another generator and detector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    Attributes
    ----------
    id : short name
    paper : arXiv number
    where : section, figure or table
    claim : the statement in our words
    kind : 'number', 'equivalence' or 'direction' (`jetfm.ledger.verdicts` has their rules)
    paper_value : the paper's number; None where it gives none
    unit : of the values
    tolerance : absolute; a number this close counts as the same
    baseline : a value that a number must beat to go in the same direction
    bound : 'at most' or 'at least', where what is below, or above, the paper's value is better
    figures : ours that show what it is about; those of the paper's figures that `where` names, and
        more where the measurement takes them
    """

    id: str
    paper: str
    where: str
    claim: str
    kind: Literal["number", "equivalence", "direction"]
    paper_value: float | None = None
    unit: str = ""
    tolerance: float = 0.0
    baseline: float | None = None
    bound: Literal["at most", "at least"] | None = None
    figures: tuple[str, ...] = ()

    @property
    def agrees(self) -> tuple[float, float]:
        """Smallest and largest value that agrees with the paper's."""
        least = -math.inf if self.bound == "at most" else self.paper_value - self.tolerance
        most = math.inf if self.bound == "at least" else self.paper_value + self.tolerance
        return least, most


OMNIJET, HYBRID = "2403.05618", "2512.04149"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "conditional-volume", OMNIJET, "III A, figure 3",
        "Conditional tokens reach more of physical space than unconditional ones (same codebook; "
        "ln of the ratio of the volumes)",
        "direction",
        figures=("fig02_token_map",),
    ),
    Claim(
        "mass-resolution-512", OMNIJET, "III A, figure 4",
        "Conditional tokens, codebook of 512: width of the jet-mass residual of t->bqq' jets",
        "number", 8.3, "GeV", tolerance=1.0, bound="at most",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "mass-resolution-8192", OMNIJET, "III A, figure 4",
        "Conditional tokens, codebook of 8192: width of the jet-mass residual of t->bqq' jets",
        "number", 4.0, "GeV", tolerance=0.5, baseline=8.3, bound="at most",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "mass-resolution-falls", OMNIJET, "III A, figure 4",
        "Conditional tokens: the mass resolution improves with the codebook (smallest to largest)",
        "direction", unit="GeV",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "mass-centred", OMNIJET, "III A, figure 4",
        "Conditional tokens: the jet-mass residual is centred at zero (smallest codebook)",
        "equivalence", 0.0, "GeV", tolerance=1.0,
        figures=("fig02_token_quality",),
    ),
    Claim(
        "unconditional-shift", OMNIJET, "III A, figure 4",
        "Unconditional tokens, codebook of 512: the jet mass is underestimated systematically",
        "number", 15.0, "GeV", tolerance=2.0, baseline=0.0,
        figures=("fig02_token_quality",),
    ),
    Claim(
        "unconditional-slope", OMNIJET, "III A, figure 4",
        "Unconditional tokens, codebook of 512: the ratio of reconstructed to original jets falls "
        "with the mass (that of the lightest quarter of all jets minus that of the heaviest)",
        "direction",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "unconditional-shift-exceeds", OMNIJET, "III A, figure 4",
        "The mass shift of unconditional tokens exceeds that of conditional ones (same codebook)",
        "direction", unit="GeV",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "tau32-bias", OMNIJET, "III A, figure 4",
        "Conditional tokens, codebook of 8192: tokenised jets have a smaller tau32 than the "
        "original ones (original minus reconstructed is positive)",
        "direction",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "tau32-shift-512", OMNIJET, "III A, figure 4",
        "Unconditional tokens, codebook of 512: tau32 is shifted as it is with conditional ones "
        "(size of the mean residual, the smaller of the two)",
        "direction",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "conditional-best", OMNIJET, "III A",
        "Conditional tokens, codebook of 8192, have the highest fidelity: the smallest mass "
        "resolution of paper 1's kinds of tokenizers up to the grid of 21 x 21 x 21 (that of the "
        "best other one minus theirs)",
        "direction", unit="GeV",
        figures=("fig02_resolutions",),
    ),
    Claim(
        "no-logarithm", OMNIJET, "appendix A 1",
        "Tokens of pt itself instead of ln pt perform similarly (ratio of the mass resolutions, "
        "conditional, codebook of 8192)",
        "equivalence", 1.0, "", tolerance=0.25,
        figures=("fig02_resolutions",),
    ),
    Claim(
        "tau32-bias-falls", OMNIJET, "III A, figure 4",
        "Conditional tokens: the bias of tau32 shrinks from the smallest to the largest codebook",
        "direction",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "binned-mass", OMNIJET, "III A, figure 4",
        "A grid of 21 x 21 x 21 cells comes close to the mass resolution of 8192 conditional codes "
        "(ratio of the two widths)",
        "number", 1.0, "", tolerance=0.25,
        figures=("fig02_token_quality",),
    ),
    Claim(
        "binned-tau32", OMNIJET, "III A, figure 4",
        "The tau32 residuals of the grid are wider than those of the conditional codebook of "
        "similar size (standard deviations, t->bqq')",
        "direction",
        figures=("fig02_token_quality",),
    ),
    Claim(
        "binned-leptons", OMNIJET, "III A and footnote 4",
        "The grid mismodels t->blv and H->lvqq' jets: their mass residuals are wider than with a "
        "conditional codebook of similar size (standard deviations)",
        "direction", unit="GeV",
        figures=("fig02_class_jet_mass_residual",),
    ),
    Claim(
        "binned-fine", OMNIJET, "footnote 4",
        "A grid of 40 x 40 x 40 cells has the mass resolution of 8192 conditional codes (ratio)",
        "equivalence", 1.0, "", tolerance=0.25,
        figures=("fig02_resolutions",),
    ),
    Claim(
        "deepsets-rises", OMNIJET, "III A, figure 5",
        "DeepSets on reconstructed jets: accuracy rises with the codebook (smallest to largest)",
        "direction",
        figures=("fig02_classifiers",),
    ),
    Claim(
        "transformer-rises", OMNIJET, "III A, figure 5",
        "Transformer on reconstructed jets: accuracy rises with the codebook (smallest to largest)",
        "direction",
        figures=("fig02_classifiers",),
    ),
    Claim(
        "deepsets-below-original", OMNIJET, "III A, figure 5",
        "DeepSets: accuracy on original constituents exceeds that at the largest codebook",
        "direction",
        figures=("fig02_classifiers",),
    ),
    Claim(
        "transformer-below-original", OMNIJET, "III A, figure 5",
        "Transformer: accuracy on original constituents exceeds that at the largest codebook",
        "direction",
        figures=("fig02_classifiers",),
    ),
    Claim(
        "accuracy-plateau", OMNIJET, "III A, figure 5",
        "Accuracy levels off above 4096 codes (transformer: the gain from 512 to 4096 codes "
        "exceeds that from 4096 to 8192)",
        "direction",
        figures=("fig02_classifiers",),
    ),
    Claim(
        "generation-auc", OMNIJET, "III B, appendix A 5",
        "A DeepSets classifier separates generated from reconstructed jets with this AUC, for a "
        "model trained on t->bqq' and q/g together",
        "number", 0.54, "", tolerance=0.01, bound="at most",
        figures=("fig04_combined",),
    ),
    Claim(
        "generation-auc-single", OMNIJET, "appendix A 5",
        "The same for models trained on one jet type (mean of t->bqq' and q/g)",
        "number", 0.57, "", tolerance=0.01, bound="at most",
        figures=("fig04_qcd", "fig04_tbqq"),
    ),
    Claim(
        "generation-pt-tail", OMNIJET, "III B, figure 6",
        "Models of one jet type: the tail of the generated constituent pt, bumps included, is that "
        "of the tokens' (mean discrepancy of the tails above the floor, as abs(ln ratio))",
        "equivalence", 0.0, "", tolerance=0.1, bound="at most",
        figures=("fig04_combined", "fig04_qcd", "fig04_tbqq"),
    ),
    Claim(
        "generation-tau32", OMNIJET, "appendix C, figures 16 and 17",
        "Models of one jet type: tau32 is harder to model for t->bqq' than for q/g "
        "(Wasserstein-1 distances above the floor)",
        "direction",
        figures=("fig04_qcd", "fig04_tbqq"),
    ),
    Claim(
        "epic-fm-tails", OMNIJET, "appendix C, figure 18",
        "t->bqq': OmniJet-alpha has a higher discrepancy than EPiC-FM in the tails, each against "
        "its own truth (mean of all distributions but constituent eta and multiplicity, above the "
        "floor)",
        "direction",
        figures=("fig04_rivals",),
    ),
    Claim(
        "epic-fm-pt", OMNIJET, "appendix C, figure 18",
        "t->bqq': the constituent pt is OmniJet-alpha's most difficult distribution (discrepancy "
        "of its tails minus the largest of the others, above the floor)",
        "direction",
        figures=("fig04_rivals",),
    ),
    Claim(
        "epic-fm-eta-n", OMNIJET, "appendix C, figure 18",
        "t->bqq': in constituent eta and in multiplicity OmniJet-alpha's tails are no worse than "
        "EPiC-FM's (mean discrepancy of the two above the floor, OmniJet-alpha's minus EPiC-FM's)",
        "equivalence", 0.0, "", tolerance=0.05, bound="at most",
        figures=("fig04_rivals",),
    ),
    Claim(
        "continuous-input-generates", HYBRID, "abstract, figure 3",
        "Continuous input costs nothing in generation: AUC of the classifier test minus that with "
        "token ids as input (DeepSets)",
        "equivalence", 0.0, "", tolerance=0.02, bound="at most",
        figures=("fig04_inputs",),
    ),
    Claim(
        "joint-generates", HYBRID, "abstract",
        "Continuous input and joint training cost nothing in generation: AUC of the classifier "
        "test minus that of next tokens with token ids as input (DeepSets)",
        "equivalence", 0.0, "", tolerance=0.02, bound="at most",
        figures=("fig04_inputs",),
    ),
    Claim(
        "finetune-100", OMNIJET, "III C, figure 7",
        "Fine-tuned on 100 jets: accuracy of t->bqq' against q/g",
        "number", 0.85, "", tolerance=0.01, bound="at least",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "finetune-1000", OMNIJET, "IV, figure 7",
        "Fine-tuned on 1000 jets: accuracy of t->bqq' against q/g",
        "number", 0.90, "", tolerance=0.01, bound="at least",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "scratch-1000", OMNIJET, "IV, figure 7",
        "From scratch on 1000 jets: accuracy of t->bqq' against q/g",
        "number", 0.75, "", tolerance=0.02,
        figures=("fig05_finetuning",),
    ),
    Claim(
        "gain-100", OMNIJET, "III C, figure 7",
        "At 100 jets, fine-tuned accuracy exceeds that from scratch",
        "direction",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "gain-1000", OMNIJET, "IV, figure 7",
        "At 1000 jets, fine-tuned accuracy exceeds that from scratch by 15 points",
        "number", 0.15, "", tolerance=0.02, baseline=0.0,
        figures=("fig05_finetuning",),
    ),
    Claim(
        "gain-up-to", OMNIJET, "III C, figure 7",
        "For few training jets, fine-tuned accuracy exceeds that from scratch by up to 17 points "
        "(the largest difference of all sizes)",
        "number", 0.17, "", tolerance=0.02, baseline=0.0,
        figures=("fig05_finetuning",),
    ),
    Claim(
        "gain-everywhere", OMNIJET, "IV, figure 7",
        "Fine-tuned accuracy exceeds that from scratch for all training sizes (the smallest "
        "difference of all sizes)",
        "direction",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "labels-100", OMNIJET, "III C, figure 7",
        "Training from scratch needs more than 10 000 jets for the accuracy that fine-tuning "
        "reaches with 100 (accuracy fine-tuned on 100 minus that from scratch on 10 000)",
        "direction",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "fixed-beats-scratch", OMNIJET, "III C, figure 7",
        "A fixed backbone, too, does better than training from scratch (at 1000 jets)",
        "direction",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "gain-falls", OMNIJET, "IV, figure 7",
        "The two approaches converge: the gain of fine-tuning at the smallest size exceeds that at "
        "the largest",
        "direction",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "gain-2M", OMNIJET, "IV, figure 7",
        "With 2 million jets, fine-tuned accuracy still exceeds that from scratch",
        "direction",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "open-beats-fixed", OMNIJET, "III C, figure 7",
        "Fine-tuning all weights does slightly better than a fixed backbone (at 1000 jets)",
        "direction",
        figures=("fig05_finetuning",),
    ),
    Claim(
        "open-near-fixed", OMNIJET, "III C, figure 7",
        "The difference between the two kinds of fine-tuning is small (accuracy with all weights "
        "free minus that with a fixed backbone, mean over the training sizes)",
        "equivalence", 0.0, "", tolerance=0.03,
        figures=("fig05_finetuning",),
    ),
    Claim(
        "input-scratch-ten-classes", HYBRID, "figure 4a; second-hand summary, experiment 1",
        "Ten classes: from scratch, too, continuous input is more accurate than token ids",
        "direction",
        figures=("fig05_inputs",),
    ),
    Claim(
        "input-scratch-landscape", HYBRID, "figure 4b; second-hand summary, experiment 1",
        "Top tagging on other jets: from scratch, too, continuous input is more accurate than "
        "token ids",
        "direction",
        figures=("fig05_inputs",),
    ),
    Claim(
        "input-ten-classes", HYBRID, "figure 4a; summary",
        "Ten classes: accuracy fine-tuned with continuous input exceeds that with token ids",
        "direction",
        figures=("fig05_inputs",),
    ),
    Claim(
        "input-landscape", HYBRID, "figure 4b; summary",
        "Top tagging on other jets: accuracy fine-tuned with continuous input exceeds that with "
        "token ids",
        "direction",
        figures=("fig05_inputs",),
    ),
    Claim(
        "input-gain", HYBRID, "second-hand summary (15 %; read here as a difference of accuracies)",
        "Continuous input gains up to 15 points over token ids",
        "number", 0.15, "", tolerance=0.05, baseline=0.0,
        figures=("fig05_inputs",),
    ),
    Claim(
        "both-changes", HYBRID, "abstract",
        "Continuous input and joint training together improve classification: accuracy of the "
        "joint model minus that of next tokens with token ids (top tagging on other jets)",
        "direction",
        figures=("fig05_inputs", "fig05_strategies"),
    ),
    Claim(
        "mpm-beats-ntp", HYBRID, "figure 5a; second-hand summary",
        "Top tagging on other jets: masked particles make a better start than next tokens",
        "direction",
        figures=("fig05_strategies",),
    ),
    Claim(
        "joint-beats-ntp", HYBRID, "figure 5a; second-hand summary",
        "Top tagging on other jets: joint training makes a better start than next tokens",
        "direction",
        figures=("fig05_strategies",),
    ),
    Claim(
        "joint-near-mpm", HYBRID, "figure 5a; second-hand summary",
        "Top tagging on other jets: joint training is close to masked particles alone "
        "(difference of accuracies)",
        "equivalence", 0.0, "", tolerance=0.01,
        figures=("fig05_strategies",),
    ),
    Claim(
        "mpm-causal-like-ntp", HYBRID, "figure 5; second-hand summary",
        "Top tagging on other jets: causal masked particles do about as well as next tokens "
        "(difference of accuracies)",
        "equivalence", 0.0, "", tolerance=0.01,
        figures=("fig05_strategies",),
    ),
    Claim(
        "bidirectional-matters", HYBRID, "figure 5; second-hand summary",
        "Top tagging on other jets: masked particles do better with a bidirectional backbone than "
        "with a causal one",
        "direction",
        figures=("fig05_strategies",),
    ),
    Claim(
        "mpm-rejection", HYBRID, "figure 5b; second-hand summary",
        "Background rejection at 30 % signal efficiency: masked particles exceed next tokens "
        "(logarithm of the ratio, most labels)",
        "direction",
        figures=("fig05_strategies",),
    ),
    Claim(
        "joint-rejection", HYBRID, "figure 5b; second-hand summary",
        "Background rejection at 30 % signal efficiency: joint training exceeds next tokens "
        "(logarithm of the ratio, most labels)",
        "direction",
        figures=("fig05_strategies",),
    ),
    Claim(
        "pretraining-beats-scratch", HYBRID, "second-hand summary, key results",
        "Top tagging on other jets: the joint model, fine-tuned, exceeds training from scratch",
        "direction",
        figures=("fig05_strategies",),
    ),
    Claim(
        "fewer-labels-larger-gain", HYBRID, "second-hand summary, key results",
        "The gain of pre-training over scratch is largest for few training jets (gain of the joint "
        "model at the smallest size minus that at the largest)",
        "direction",
        figures=("fig05_strategies",),
    ),
)  # fmt: skip

#: Claims on paper 1's tagger, and on paper 2's transfer.
TAGGING = (
    "finetune-100", "finetune-1000", "scratch-1000", "gain-100", "gain-1000", "gain-up-to",
    "gain-everywhere", "labels-100", "fixed-beats-scratch", "gain-falls", "gain-2M",
    "open-beats-fixed", "open-near-fixed",
)  # fmt: skip
_IDS = [claim.id for claim in CLAIMS]
TRANSFER = tuple(_IDS[_IDS.index("input-scratch-ten-classes") :])
