"""A server: where it is, how fast it may be asked, and what it costs."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from limbeck.errors import TeacherError, UsageError
from limbeck.recipe.component import Section

_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


class Server(Section):
    """An OpenAI-compatible server, its limits and its prices (in any one currency)."""

    base_url: str = Field(description="address of the API, as a rule ending in /v1")
    model: str = Field(min_length=1, description="the model's name on the server")
    deployment: str | None = Field(
        default=None,
        description="stands for base_url in fingerprints, where a server's address changes",
    )
    api_key_env: str | None = Field(
        default=None, description="name of the environment variable that holds the key"
    )
    api_key_header: str = Field(
        default="Authorization",
        pattern=r"^[A-Za-z][A-Za-z0-9-]*$",
        description="header of the key; Authorization puts Bearer before it",
    )
    concurrency: int = Field(default=8, gt=0, description="requests under way at once")
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="the server's limit; retries count"
    )
    timeout_seconds: float = Field(default=120.0, gt=0, description="for one whole response")
    max_retries: int = Field(default=6, ge=0, description="of one request, with growing pauses")
    price_per_million_prompt_tokens: float = Field(default=0.0, ge=0, description="for the cost")
    price_per_million_answer_tokens: float = Field(default=0.0, ge=0, description="for the cost")
    max_cost: float | None = Field(
        default=None, gt=0, description="of one stage, earlier runs of it included"
    )
    max_requests: int | None = Field(
        default=None, gt=0, description="of one stage, retries and earlier runs included"
    )

    @field_validator("api_key_env", mode="before")
    @classmethod
    def _is_a_name(cls, value: Any) -> Any:
        # The value is not shown: it may be the key itself.
        if value is not None and not (
            isinstance(value, str) and _ENVIRONMENT_NAME.fullmatch(value)
        ):
            raise UsageError(
                "must be the name of an environment variable (capitals, digits, _), never a key"
            )
        return value

    @field_validator("base_url", mode="before")
    @classmethod
    def _is_an_address(cls, value: Any) -> Any:
        if not isinstance(value, str):
            raise UsageError("must be text")
        try:
            parts = urlsplit(value)
            host = parts.hostname
        except ValueError as error:
            raise UsageError("is no address") from error
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError("must be an address that begins with http:// or https://")
        if parts.username or parts.password or parts.query or parts.fragment:
            # Not shown: what stands there may be a secret.
            raise UsageError(
                "must hold no user, password or query", mend="give the key in api_key_env"
            )
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise UsageError("must end before /chat/completions")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _cap_has_prices(self) -> Server:
        prices = self.price_per_million_prompt_tokens + self.price_per_million_answer_tokens
        if self.max_cost is not None and not prices:
            raise UsageError(
                "needs the prices of tokens",
                where="max_cost",
                mend="set price_per_million_prompt_tokens and price_per_million_answer_tokens",
            )
        return self

    def key(self) -> str | None:
        """The API key, from the environment; nothing keeps it but the client.

        Raises:
            TeacherError: the variable is not set.
        """
        if self.api_key_env is None:
            return None
        found = os.environ.get(self.api_key_env, "").strip()
        if not found:
            raise TeacherError(
                f"the environment variable {self.api_key_env} is not set",
                where="teacher.api_key_env",
                mend=f"set it to the server's key (export {self.api_key_env}=...)",
            )
        return found

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Of so many tokens."""
        prompt = prompt_tokens * self.price_per_million_prompt_tokens
        return (prompt + answer_tokens * self.price_per_million_answer_tokens) / 1e6

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def is_plain(self) -> bool:
        """Whether what is sent can be read on its way."""
        return self.base_url.startswith("http:") and not self.is_here

    def served_as(self) -> dict[str, Any]:
        """What of it can change answers: which model, and who serves it."""
        return {"address": self.deployment or self.base_url, "model": self.model}
