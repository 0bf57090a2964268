"""CORS that refuses with problem documents."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from plinth.http.error_handlers import problem_response

__all__ = ["ProblemCORSMiddleware"]


class ProblemCORSMiddleware(CORSMiddleware):
    """Starlette's CORSMiddleware; a refused preflight is answered with a problem document."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
        detail = bytes(response.body).decode()
        return problem_response(response.status_code, code="cors_refused", detail=detail, headers=headers)
