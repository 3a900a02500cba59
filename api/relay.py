"""How far the relay is, over HTTP."""

from __future__ import annotations

from typing import Annotated

from api.dependencies import Parts, allowed
from api.errors import documented
from api.routers import Router
from api.tokens import Identity
from readmodels.relay import RelayState, relay_state

router = Router(tags=["projections"])


@router.get("/relay", summary="How far the relay to Kafka is", responses=documented())
async def get_relay(deps: Parts, _: Annotated[Identity, allowed("relay.get")]) -> RelayState:
    """What of the log stands on Kafka: its position, how far it is behind in events and seconds,
    what was put into each lane, and whether somebody relays. `never_ran` where nobody ever did."""
    return await relay_state(deps.log)
