"""What stands under every figure of the notebooks."""

from __future__ import annotations

#: Caption of every figure of notebooks 00 to 05, by file name, in order.
CAPTIONS = {
    "fig00_calibration": "Mean multiplicity and jet pT by class, and the share of each kind of "
    "constituent: simulated jets (points) and published JetClass values (bars). Bands: the "
    "tolerances we hold ourselves to.",
    "fig00_widths": "The same comparison for quantities without a tolerance: widths by class, "
    "constituents of all classes mixed, and substructure of q/g and t→bqq′ jets.",
    "fig00_classes": "Soft-drop mass, multiplicity and tau32 of five of the ten classes.",
    "fig01_tokenizer": "Training of the conditional VQ-VAE.",
    "fig02_token_quality": "What tokenisation loses (after figure 4 of arXiv 2403.05618): jet mass "
    "of all classes before and after, and the residuals of mass and tau32 of t→bqq′ jets.",
    "fig03_pretraining": "Next-token prediction: loss and accuracy per predicted token.",
    "fig04_generation": "Generated jets against tokenised and decoded ones (after figure 6 of "
    "arXiv 2403.05618 and figure 3 of arXiv 2512.04149).",
    "fig05_finetuning": "Top tagging by number of labelled jets (after figure 7 of arXiv "
    "2403.05618): from scratch, with the pre-trained backbone fixed, and fine-tuned.",
}
