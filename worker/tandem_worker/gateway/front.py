"""Several services behind one listener: a request goes to the one that serves the model it names.

Each service keeps its own gateway, with its own fleet, queue and limits; nothing of one waits for another.
"""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from tandem_worker.gateway.body import SENT, receive
from tandem_worker.gateway.errors import Refusal, invalid
from tandem_worker.gateway.metrics import together
from tandem_worker.gateway.request import ANY_WORKER, GENERATING, Fields, value, wrong_model
from tandem_worker.gateway.server import METRICS_TYPE, Answer, Gateway, json_answer, refused, request_id_of

NAMES_A_MODEL = {*GENERATING, *ANY_WORKER}


class Front:
    """Answers requests for all services of a process."""

    def __init__(self, gateways: Sequence[Gateway]) -> None:
        """`gateways`: one a service. Where two come to know the same name, the first one of them serves it."""
        self._gateways = gateways
        self._together: dict[tuple[str, str], Callable[[web.BaseRequest, Sequence[Gateway]], Awaitable[Answer]]] = {
            ("GET", "/v1/models"): self._models,
            ("GET", "/fleet"): self._fleet,
            ("GET", "/metrics"): self._metrics,
            **{("POST", path): self._generate for path in NAMES_A_MODEL},
        }

    async def handle(self, request: web.BaseRequest) -> Answer:
        """Answer one HTTP request."""
        if request.path == "/health":
            # Its services fail one by one: the door is shut when all have.
            return await next((one for one in self._gateways if one.is_ready), self._gateways[0]).handle(request)
        open_to = [one for one in self._gateways if one.keys.may_enter(request.headers)]
        answer = self._together.get((request.method, request.path))
        if answer is None or not open_to:
            # To this all gateways say the same.
            return await self._gateways[0].handle(request)
        response = await answer(request, open_to)
        if not response.prepared:
            response.headers.setdefault("x-request-id", request_id_of(request))
        return response

    async def _generate(self, request: web.BaseRequest, gateways: Sequence[Gateway]) -> Answer:
        sent = await receive(request, max(one.spec.body_bytes_max for one in gateways))
        if isinstance(sent, Refusal):
            return refused(sent, request.path)
        chosen = _serving(request, sent.fields, gateways)
        if isinstance(chosen, Refusal):
            return refused(chosen, request.path)
        request[SENT] = sent
        return await chosen.handle(request)

    async def _models(self, _request: web.BaseRequest, gateways: Sequence[Gateway]) -> Answer:
        models: dict[object, dict[str, object]] = {}
        for model in (each for one in gateways for each in one.models()):
            models.setdefault(model["id"], model)
        return json_answer({"object": "list", "data": list(models.values())})

    async def _fleet(self, request: web.BaseRequest, gateways: Sequence[Gateway]) -> Answer:
        """Of every service; with `?service=NAME` of that one, as its own gateways answer."""
        views = {one.spec.service: one.view(request.headers) for one in gateways}
        view = views.get(request.query.get("service", ""))
        return json_answer(view or {"services": views})

    async def _metrics(self, _request: web.BaseRequest, gateways: Sequence[Gateway]) -> Answer:
        known = {one.spec.service: await one.observed() for one in gateways}
        return web.Response(body=together(known), headers=METRICS_TYPE)


def _serving(request: web.BaseRequest, fields: Fields, gateways: Sequence[Gateway]) -> Gateway | Refusal:
    """The gateway that serves the model; the names are listed to whoever asks for another one, or for none."""
    names = [name for one in gateways for name in one.names(request)]
    if refusal := wrong_model(fields, names):
        return refusal
    model = value(fields, "model")
    if model is None:
        return invalid(f"`model` is missing; say which of {', '.join(names)} is meant", "model")
    return next(one for one in gateways if model in one.names(request))
