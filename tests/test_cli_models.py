"""The command line of models on a log of its own: approval of a model worse than its baseline."""

from __future__ import annotations

import asyncio

import pytest
import typer
from typer.testing import CliRunner

from chainlytics.cli import deployments
from chainlytics.cli.console import CliError, console
from chainlytics.cli.model_views import show_model
from domain.models import Metrics, RegisterModel, Training
from ml.fulfilment import FULFILMENT
from readmodels.database import ReadModels
from readmodels.models import ModelDetail, get_model
from tests.world import NOW, ORGANISATION, company, context

HASH = "ab" * 32


@pytest.fixture(scope="module")
def log(database: str) -> str:
    """A database with a registered model whose log loss is worse than its baseline's."""
    training = Training(
        from_position=1,
        to_position=100,
        train_rows=900,
        split_at=NOW,
        features=FULFILMENT.feature_names,
        parameters={},
        libraries={},
        base_score="0.5",
    )
    registration = RegisterModel(
        model_hash=HASH,
        kind="fulfilment",
        schema_hash=FULFILMENT.schema_hash,
        training=training,
        metrics=Metrics(rows=200, late_share=0.1, auc=0.8, log_loss=0.3125, brier=0.07),
        baseline=Metrics(rows=200, late_share=0.1, auc=None, log_loss=0.25, brier=0.09),
        registered_at=NOW,
    )

    async def fill() -> None:
        async with company(database) as app:
            await app.bus.execute(registration, context("planner"))

    asyncio.run(fill())
    return database


def stored(url: str) -> ModelDetail:
    async def ask() -> ModelDetail:
        async with company(url) as app:
            await app.projector.catch_up()
            found = await get_model(ReadModels(app.log, ORGANISATION), HASH)
            assert found is not None
            return found

    return asyncio.run(ask())


def test_both_log_losses_are_told_before_a_worse_model_is_approved(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", log)
    monkeypatch.setenv("CHAINLYTICS_ORGANISATION", str(ORGANISATION))
    app = typer.Typer()
    app.command()(deployments.approve)
    words = [HASH[:12], "--actor", "boss"]
    with pytest.raises(CliError, match=r"log loss 0\.3125, the baseline's 0\.2500.*--accept-worse"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    model = stored(log)
    assert model.stage == "registered"
    with console.capture() as shown:
        show_model(model)
    text = " ".join(shown.get().split())
    assert "It fits worse than the baseline: log loss 0.3125, the baseline's 0.2500" in text
    done = CliRunner().invoke(app, [*words, "--accept-worse"], catch_exceptions=False)
    assert done.exit_code == 0
    assert stored(log).stage == "approved"
