"""Settings of one served bundle, from `mmray serve`, `serve run` or serve.yaml."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmray.confidence import Abstain
from mmray.config import CanaryOptions
from mmray.errors import ConfigError
from mmray.preprocess.spec import Limits
from mmray.unread import OnForeignText

_LEAST_TOKEN = 16  # characters; 64 bits in hexadecimal

Topology = Literal["auto", "fused", "split"]


class ServeSettings(BaseModel):
    """One bundle behind HTTP; the keys of `args` in a serve.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = Field(description="directory or URL of the bundle")
    variant: str = Field("auto", description="which compiled form; auto: the fastest on the machine")
    abstain: Abstain = Field(
        "auto",
        description="share of the labels that may be wrong: records with a lower score get no label; "
        "auto: as the bundle asks; never",
    )
    canary: CanaryOptions | None = Field(
        None, description="a second bundle that answers a share of the requests as well, to be compared"
    )
    topology: Topology = Field(
        "auto", description="fused: one process does all; split: CPU replicas preprocess for the model's"
    )
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    cpus: float = Field(
        1.0, ge=0, description="CPUs that Ray reserves for a replica; it computes on one thread"
    )
    batch_rows: int = Field(8, ge=1, le=256, description="most records of one inference")
    batch_wait_s: float = Field(0.0, ge=0, le=1, description="how long a batch waits for more records")
    max_records: int = Field(256, ge=1, description="maximum records of one batch request")
    body_bytes: int = Field(32 << 20, ge=1, description="largest body of a request")
    bytes_in_flight: int = Field(256 << 20, ge=1, description="maximum bytes of all bodies in a replica")
    body_timeout_s: float = Field(20.0, gt=0, description="for a whole body to arrive")
    compute_timeout_s: float = Field(
        30.0,
        gt=0,
        description="time limit of one batch; a replica that takes longer counts as hung and is replaced",
    )
    health_check_period_s: float = Field(2.0, gt=0, description="interval of a replica's health checks")
    drain_s: float = Field(20.0, ge=0, description="time for a stopping replica to finish requests")
    limits: Limits = Limits(image_pixels=25_000_000, audio_s=600.0, text_chars=20_000)
    foreign_text: OnForeignText = Field(
        "keep", description="mask: a text in a script or language that the model does not read is left out"
    )
    samples: bool = Field(
        False,
        description="offer the raw records of the bundle's golden inputs on the page; whoever may use the "
        "server may then see them",
    )
    token_file: str | None = Field(None, description="bearer tokens, one a line; $MMRAY_TOKEN adds one")

    @model_validator(mode="after")
    def _ordered(self) -> ServeSettings:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas of {self.max_replicas} is below min_replicas")
        if self.bytes_in_flight < self.body_bytes:
            raise ValueError(
                f"bytes_in_flight of {self.bytes_in_flight} is below body_bytes; set it to at least that"
            )
        return self

    @property
    def requests_in_flight(self) -> int:
        """Maximum requests whose body a replica has: a batch in the model, one ready, two waiting."""
        return 4 * self.batch_rows

    @property
    def bodies_arriving(self) -> int:
        """Maximum bodies in transit to a replica."""
        return 4 * self.requests_in_flight

    def token_digests(self, *, public: bool = True) -> frozenset[bytes]:
        """Sha256 of each token: replicas get only these; the tokens stay where the server was started.

        Args:
            public: whether other machines can reach the server; then short tokens are refused.

        Raises:
            ConfigError: a token is blank or too short; the file cannot be read or has no token.
        """
        tokens = {}
        if (own := os.environ.get("MMRAY_TOKEN")) is not None:
            if not own.strip():
                raise ConfigError(
                    "MMRAY_TOKEN is blank, so anyone could use the server; set a token, or unset the variable"
                )
            tokens["MMRAY_TOKEN"] = own.strip()
        if self.token_file is not None:
            tokens |= _tokens_of(self.token_file)
        for place, token in tokens.items():
            if public and len(token) < _LEAST_TOKEN:
                raise ConfigError(
                    f"{place}: a token of {len(token)} characters can be guessed; make one of {_LEAST_TOKEN} "
                    "or more, as `openssl rand -hex 32` does, or listen on loopback only"
                )
        return frozenset(hashlib.sha256(token.encode()).digest() for token in tokens.values())


def _tokens_of(file: str) -> dict[str, str]:
    """Tokens by file and line."""
    try:
        lines = Path(file).read_text().splitlines()
    except (OSError, ValueError) as e:
        raise ConfigError(f"{file}: cannot read the tokens: {e}") from e
    found = {f"{file}:{i}": token for i, line in enumerate(lines, start=1) if (token := line.strip())}
    if not found:
        raise ConfigError(f"{file}: has no token; write one on a line, or remove the option")
    return found
