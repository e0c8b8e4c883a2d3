"""Write the results of a finished run: tables of scores, the chosen weights with their model card, a summary."""

from collections.abc import Mapping

import numpy as np

from amos_fl.cohort.table import Cohort
from amos_fl.files import write_text
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.learned import learned_in
from amos_fl.runs.model_card import model_card
from amos_fl.runs.origin import about_network, write_model
from amos_fl.runs.results import Results, results_of, write_tables
from amos_fl.runs.summary import summary


def write_results(folder: RunFolder, config: RunConfig, cohort: Cohort, weights: Mapping[str, np.ndarray]) -> Results:
    """Write scores.csv, scores_by_site.csv, scores_by_organ.csv, model/ and summary.md; return the results."""
    results = results_of(folder, config, cohort)
    write_tables(folder.path, results)
    learned = learned_in(folder, cohort).organs
    write_model(
        folder.path / "model",
        weights,
        round=results.chosen.round,
        network=about_network(config.model, config.plan, cohort.organs, config.norm_statistics, learned),
        modalities={case.modality for case in cohort.of(split="train", labelled=True)},
        synthetic=folder.synthetic,
        inference=config.recorded_inference,
    )
    write_text(folder.path / "model" / "MODEL_CARD.md", model_card(folder, config, cohort, results))
    write_text(folder.path / "summary.md", summary(folder, config, cohort, results))
    return results
