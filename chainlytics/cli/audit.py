"""For auditors: who did what, what came of it, and how the log is proved."""

from __future__ import annotations

import typer

from chainlytics.cli import bundle, seals, trail, witnesses

app = typer.Typer(
    no_args_is_help=True, help="For auditors: who did what, what came of it, and the proofs."
)
seals.add_to(app)
trail.add_to(app)
app.command("witnesses")(witnesses.witnesses)
app.command()(bundle.bundle)
app.command()(bundle.verify_bundle)
