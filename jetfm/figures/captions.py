"""What stands under every figure of the notebooks."""

from __future__ import annotations

#: The figure that notebook 06 makes of the ledger.
LEDGER = "fig06_ledger"

#: Younger than some results that were kept, which need not have them.
LATER = ("fig02_features", "fig05_probes", "fig05_mask_fraction", "fig05_out_of_range")

#: Caption of every figure, by file name, in the order of the notebooks.
CAPTIONS = {
    "fig00_calibration": "Mean multiplicity and jet pT by class, and the share of each kind of "
    "constituent: simulated jets (points) and published JetClass values (bars). Bands: the "
    "tolerances we hold ourselves to.",
    "fig00_widths": "The same comparison for quantities without a tolerance: widths by class, "
    "constituents of all classes mixed, and substructure of q/g and t→bqq′ jets.",
    "fig00_quantiles": "Distributions of the columns that JetClass stores for each jet, all ten "
    "classes: five quantiles of simulated jets over those of 10,000 published ones. What lies at 1 "
    "from the 5 % to the 95 % quantile has the published shape, tails included.",
    "fig00_soft_constituents": "Jets of the Top Landscape, real (points) and simulated with and "
    "without multi-parton interactions (bands: standard errors): multiplicity, spectrum, and soft "
    "constituents by distance from the axis. The description of the data set says without; the "
    "real jets have the soft constituents, spread over their area, that only simulation with has.",
    "fig00_classes": "Soft-drop mass, multiplicity and tau32 of five of the ten classes.",
    "fig01_tokenizer": "Training of the conditional VQ-VAE.",
    "fig02_token_map": "Where tokens lie in physical space (after figure 3 of arXiv 2403.05618). "
    "Each colour is one token. A conditional token is reconstructed beside other, random tokens, "
    "and its blob shows how far they move it; other tokens have one place each.",
    "fig02_token_quality": "What tokenisation loses (after figure 4 of arXiv 2403.05618): jet mass "
    "of all classes before and after, and the residuals of mass and tau32 of t→bqq′ jets. The "
    "table gives the mean and width of Gaussian fits to the residuals. Ratios of several "
    "tokenizers are drawn where a bin holds at least ten original jets.",
    "fig02_resolutions": "Larger codebooks lose less: width and mean of the fitted mass residuals, "
    "and mean bias of tau32, of t→bqq′ jets by codebook size. Pale: the same jets, brought to "
    "scale. Stars: values of arXiv 2403.05618.",
    "fig02_classifiers": "What ten-class classifiers still learn from decoded tokens (after "
    "figure 5 of arXiv 2403.05618). Dashed: trained on the original constituents.",
    "fig02_features": "What ten-class classifiers still learn from decoded tokens of all 14 "
    "features (mass, charge, kind of particle and impact parameters beside the kinematics), by "
    "kind of tokenizer. Dashed: trained on the original constituents.",
    "fig02_codebook": "Use of the codes: share of constituents by rank of the code, number of "
    "codes used, and perplexity, which is the size of an evenly used codebook as informative.",
    "fig02_errors": "Errors of single constituents by their pT, and the share of constituents "
    "and jets beyond what a tokenizer covers.",
    "fig02_class_jet_mass": "Jet mass by class, before and after tokenisation (after figure 8 of "
    "arXiv 2403.05618).",
    "fig02_class_jet_mass_residual": "Change of the jet mass by class (after figure 9 of arXiv "
    "2403.05618).",
    "fig02_class_jet_pt": "Jet pT by class, before and after tokenisation (after figure 10 of "
    "arXiv 2403.05618).",
    "fig02_class_jet_pt_residual": "Change of the jet pT by class (after figure 11 of arXiv "
    "2403.05618).",
    "fig02_class_tau21": "tau21 by class, before and after tokenisation (after figure 12 of arXiv "
    "2403.05618).",
    "fig02_class_tau21_residual": "Change of tau21 by class (after figure 13 of arXiv 2403.05618).",
    "fig02_class_tau32": "tau32 by class, before and after tokenisation (after figure 14 of arXiv "
    "2403.05618).",
    "fig02_class_tau32_residual": "Change of tau32 by class (after figure 15 of arXiv 2403.05618).",
    "fig03_pretraining": "Next-token prediction: loss and accuracy per predicted token, stops "
    "among them.",
    "fig03_scaling": "Loss against compute: trainings of small networks (points), the law fitted "
    "to them (lines), what it foretells for the main model (square; the bar has the scatter of the "
    "trainings and the jackknife over them), and what the main model reached (stars).",
    "fig03_strategies": "Pre-training strategies on the same jets: validation loss, and accuracy "
    "of predicted constituents by position and by pT, for next-token prediction (top) and masked "
    "particles (bottom). Bars: binomial; bins of fewer than 50 constituents are left out.",
    "fig03_losses": "The same strategies: loss of a predicted constituent by position and by pT.",
    "fig04_combined": "Jets of one model trained on q/g and t→bqq′ jets, against tokenised and "
    "decoded jets of both (after figure 6 of arXiv 2403.05618). Bands and bars: Poisson. "
    "Triangles: ratios beyond the panel.",
    "fig04_qcd": "The same for a model trained on q/g jets alone (after figure 16 of arXiv "
    "2403.05618).",
    "fig04_tbqq": "The same for a model trained on t→bqq′ jets alone (after figure 17 of arXiv "
    "2403.05618).",
    "fig04_rivals": "Two generators of t→bqq′ jets, each divided by its own truth: OmniJet-α by "
    "tokenised jets, EPiC-FM, which is told the number of constituents, by the jets themselves "
    "(after figure 18 of arXiv 2403.05618).",
    "fig04_inputs": "Models of tokens that read token ids or continuous vectors, and joint "
    "training, on all ten classes (after figure 3 of arXiv 2512.04149). Shaded: under- and "
    "overflow.",
    "fig04_without_tokens": "Beyond the papers: a backbone with a density in place of tokens, "
    "against the jets themselves, beside the main model, against tokenised jets.",
    "fig04_distances": "Wasserstein-1 distance of every generator of all classes from its own "
    "truth, in units of what two samples of the truth score.",
    "fig05_finetuning": "Top tagging by number of labelled jets (after figure 7 of arXiv "
    "2403.05618): OmniJet-α from scratch, with the pre-trained backbone fixed, and fine-tuned; in "
    "grey the paper's curves, as a third party has read them off its figure. "
    "Here and below, bands are the standard deviation over seeds, bars the uncertainty from the "
    "test jets: binomial for accuracies, bootstrap for the AUC of two classes, DeLong's for that "
    "of ten, Clopper-Pearson for rejections; a hollow point rests on fewer than ten background "
    "jets, or on a fit that its limit of steps cut short.",
    "fig05_inputs": "Next-token models that read token ids or continuous vectors (after figure 4 "
    "of arXiv 2512.04149): ten classes, and top tagging on jets of another generator set-up and "
    "detector.",
    "fig05_strategies": "Pre-training strategies with continuous input, fine-tuned to tag tops on "
    "jets of another set-up (after figure 5 of arXiv 2512.04149), and on ten classes.",
    "fig05_fixed": "What the backbones know before they are fine-tuned: they stay as they are, and "
    "only a head learns.",
    "fig05_probes": "What pre-training alone has put into the backbone, and what a head adds: "
    "planes and the nearest labelled jets in the pooled output of a fixed backbone (start, mean "
    "and maximum of the constituents), a head with attention on the same, and all weights free, "
    "with masked particles of the labelled jets learned beside or not.",
    "fig05_features": "Ten classes with three features of a constituent, or with fourteen: charge, "
    "kind of particle and impact parameters, too.",
    "fig05_baselines": "The joint model, the same network from scratch, and classifiers without "
    "pre-training, on the same jets.",
    "fig05_pretraining_jets": "Accuracy after fine-tuning by number of jets that the main model "
    "saw in pre-training, at equal training steps.",
    "fig05_mask_fraction": "Accuracy after fine-tuning by the share of each jet's constituents "
    "that was masked in pre-training; models that differ in it alone.",
    "fig05_calibration": "Do classifiers know how sure they are? Accuracy by the probability of "
    "the predicted class, ten classes, all seeds together. On the diagonal they do.",
    "fig05_out_of_range": "Classifiers trained on jets of some range, tested on jets inside it and "
    "on jets outside, with the difference of both fit by fit. Where two tasks share out the range, "
    "the accuracy inside of one is what the other could reach outside.",
    LEDGER: "Every judged claim. Left: claims with a number, as the distance from the paper's "
    "value in units of the tolerance; where the claim is a bound, all on its better side agrees, "
    "too. Right: claims of direction, in units of the uncertainty.",
}
