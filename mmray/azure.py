"""Azure's blobs: read through pyarrow, written by Azure's own client.

pyarrow creates an empty blob when it opens one for writing, and cannot move blobs without a hierarchical
namespace; Azure's client replaces a blob in one step with a block list. Both get the same account from the
environment, by the names that Azure's tools and adlfs use:

    AZURE_STORAGE_CONNECTION_STRING, or
    AZURE_STORAGE_ACCOUNT_NAME (AZURE_STORAGE_ACCOUNT) with
    AZURE_STORAGE_ACCOUNT_KEY (AZURE_STORAGE_KEY), or AZURE_STORAGE_SAS_TOKEN, or neither: a login, a service
    principal or the identity of the machine (DefaultAzureCredential)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from mmray.errors import UsageError

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

SCHEMES = ("az", "abfs", "abfss")
TYPE_NAME = "abfs"  # of pyarrow's filesystem
_SUFFIX = "core.windows.net"
_OPTIONS = ("blob_storage_authority", "dfs_storage_authority", "enable_tls", "credential_kind")
_PIECE_BYTES = 8 << 20  # bytes of a piece; a blob has at most 50,000 pieces: 390 GiB
_DEVELOPMENT = (  # meaning of "UseDevelopmentStorage=true"; the key is public
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50"
    "uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1"
)


@dataclass(frozen=True)
class Account:
    """A storage account, and its credentials."""

    name: str
    key: str = ""
    sas: str = ""
    scheme: str = "https"
    blob_authority: str = (
        f".blob.{_SUFFIX}"  # as pyarrow takes it: with a leading dot the account name is put before it
    )
    dfs_authority: str = f".dfs.{_SUFFIX}"
    anonymous: bool = False

    def __repr__(self) -> str:
        return f"Account({self.name!r})"

    @property
    def url(self) -> str:
        if self.blob_authority.startswith("."):
            return f"{self.scheme}://{self.name}{self.blob_authority}"
        return f"{self.scheme}://{self.blob_authority}/{self.name}"

    def connect(self) -> pafs.FileSystem:
        """Its filesystem, whose paths begin with a container."""
        places = {
            "blob_storage_authority": self.blob_authority,
            "dfs_storage_authority": self.dfs_authority,
            "blob_storage_scheme": self.scheme,
            "dfs_storage_scheme": self.scheme,
        }
        if not self.anonymous:
            secrets = {"account_key": self.key or None, "sas_token": self.sas or None}
            return pafs.AzureFileSystem(self.name, **places, **secrets)
        options = {name: places[name] for name in _OPTIONS[:2]} | {
            "enable_tls": str(self.scheme == "https").lower()
        }
        query = "&".join(f"{name}={value}" for name, value in options.items())
        found = pafs.FileSystem.from_uri(
            f"abfs://{self.name}.blob.{_SUFFIX}/?credential_kind=anonymous&{query}"
        )
        return found[0]

    def container(self, name: str) -> ContainerClient:
        """A container, to write to.

        Raises:
            ImportError: Azure's client is not installed.
        """
        return _container(self, name)


def split(authority: str) -> tuple[str, str, str]:
    """Container, account and domain between ``://`` and the next ``/``; "" for a missing one.

    Forms: ``container``, ``container@account.dfs.core.windows.net``, ``account.blob.core.windows.net``.
    """
    container, at, host = authority.rpartition("@")
    if not at and "." not in host:
        return host, "", ""
    account, _, domain = host.partition(".")
    return container, account, domain.partition(".")[2]


def account_of(url: str) -> Account:
    """The account that a URL and the environment name.

    Raises:
        UsageError: none is named, or an option is unknown.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise UsageError(f"{url}: Unexpected query parameter {unknown[0]!r}; there are {', '.join(_OPTIONS)}")
    if options.get("credential_kind", "anonymous") != "anonymous":
        raise UsageError(
            f"{url}: credential_kind may only be anonymous; other credentials come from the environment"
        )
    _, name, suffix = split(parts.netloc)
    account = _of_environment()
    if name and (
        account is None or account.name != name
    ):  # the environment's credentials are for another account
        account = Account(name)
    if account is None:
        raise UsageError(
            f"{url}: no storage account is named; set AZURE_STORAGE_ACCOUNT_NAME or "
            "AZURE_STORAGE_CONNECTION_STRING, or write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/…"
        )
    if suffix and suffix != _SUFFIX:
        account = replace(account, blob_authority=f".blob.{suffix}", dfs_authority=f".dfs.{suffix}")
    blob = options.get("blob_storage_authority", account.blob_authority)
    return replace(
        account,
        blob_authority=blob,
        dfs_authority=options.get(
            "dfs_storage_authority", account.dfs_authority if blob.startswith(".") else blob
        ),
        scheme="http" if options.get("enable_tls") == "false" else account.scheme,
        anonymous=options.get("credential_kind") == "anonymous",
    )


def _of_environment() -> Account | None:
    def told(*names: str) -> str:
        return next((os.environ[name] for name in names if os.environ.get(name)), "")

    if text := told("AZURE_STORAGE_CONNECTION_STRING"):
        return _of_connection_string(text)
    if not (name := told("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")):
        return None
    key = told("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
    return Account(name, key, "" if key else told("AZURE_STORAGE_SAS_TOKEN").lstrip("?"))


def _of_connection_string(text: str) -> Account:
    said = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    if said.get("UseDevelopmentStorage") == "true":
        return _of_connection_string(_DEVELOPMENT)
    endpoint = urlsplit(said.get("BlobEndpoint", ""))
    name = said.get("AccountName") or (endpoint.hostname or "").partition(".")[0]
    suffix = said.get("EndpointSuffix", _SUFFIX)
    account = Account(
        name,
        said.get("AccountKey", ""),
        said.get("SharedAccessSignature", "").lstrip("?"),
        endpoint.scheme or said.get("DefaultEndpointsProtocol", "https"),
        f".blob.{suffix}",
        f".dfs.{suffix}",
    )
    if not endpoint.netloc or endpoint.netloc == f"{name}.blob.{suffix}":
        return account
    return replace(account, blob_authority=endpoint.netloc, dfs_authority=endpoint.netloc)


@lru_cache(maxsize=16)
def _container(account: Account, name: str) -> ContainerClient:
    from azure.storage.blob import ContainerClient

    credential: Any = account.key
    if account.sas:
        from azure.core.credentials import AzureSasCredential

        credential = AzureSasCredential(account.sas)
    elif account.anonymous:
        credential = None
    elif not account.key:
        from azure.identity import DefaultAzureCredential

        credential = DefaultAzureCredential()
    return ContainerClient(
        account.url,
        name,
        credential=credential,
        max_single_put_size=_PIECE_BYTES,
        max_block_size=_PIECE_BYTES,
        retry_total=0,  # mmray.remote retries
        connection_timeout=10,
        read_timeout=60,
    )


def upload(container: ContainerClient, name: str, data: pa.Buffer, *, replaces: bool) -> None:
    """Create a blob in one step.

    Raises:
        FileExistsError: it exists and must not be replaced.
        FileNotFoundError: there is no such container.
    """
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

    try:
        # pyarrow 26.0.1: an empty reader fails in read(-1).
        content = pa.BufferReader(data) if data.size else b""
        container.upload_blob(name, content, length=data.size, overwrite=replaces)
    except ResourceExistsError as e:  # any 409
        if e.error_code != "BlobAlreadyExists":
            raise
        raise FileExistsError(name) from e
    except ResourceNotFoundError as e:
        raise FileNotFoundError(name) from e
