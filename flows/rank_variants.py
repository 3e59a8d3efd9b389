"""Rank a study's variants from what MLflow holds."""

from prefect import flow

from softprompt.ranking import Ranking
from softprompt.study import Study
from tasks.publishing import publish_ranking
from tasks.run_names import by_study


@flow(name="rank-variants", flow_run_name=by_study)
def rank_variants(study: str) -> Ranking:
    """Rank variants at the best matched step and publish the ranking.

    Args:
        study: path of the study's TOML file.
    """
    return publish_ranking(Study.read(study))
