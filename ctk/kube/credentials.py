"""
Where an API server is, and what it asks of a client: from a kubeconfig, or inside a cluster.

The only user of `kubernetes`, which knows kubeconfigs: client certificates, exec plugins, proxies.
It takes 20 MB of memory, so it is imported only for a kubeconfig; inside a cluster the server is
described by three documented facts
(https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/).
"""

import os
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ctk.errors import KubeError, UsageError
from ctk.kube.objects import RESOURCES

if TYPE_CHECKING:
    from urllib3 import PoolManager

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_GOOD_S = 60.0  # kubelet replaces the mounted token before it expires


class CredentialsError(Exception):
    """Credentials could not be read just now; they may be there later."""


class Credentials(Protocol):
    """A server, a pool of connections to it, and who this client is."""

    url: str
    pool: "PoolManager"
    cluster_name: str | None
    trust_hint: str  # what to do where the server's certificate is not trusted

    def headers(self) -> dict[str, str]:
        """What a request is to carry now; a CredentialsError where it can't be told."""
        ...


class InCluster:
    """The service account that kubelet mounts into every pod."""

    cluster_name: str | None = None

    def __init__(self, service_account: Path = SERVICE_ACCOUNT) -> None:
        from urllib3 import PoolManager

        self._token_path = service_account / "token"
        authority = service_account / "ca.crt"
        self.trust_hint = f"{authority} must hold the authority that signed it"
        self._read_s = 0.0
        try:
            host, port = (os.environ[f"KUBERNETES_SERVICE_{each}"] for each in ("HOST", "PORT"))
            self._token = self._read_token()
            context = tls_context(authority)
        except (KeyError, OSError) as error:
            raise KubeError(
                "this is not inside a cluster", hint="give --kubeconfig, --objects or --no-kube"
            ) from error
        self.url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self.pool = PoolManager(maxsize=len(RESOURCES), ssl_context=context)

    def headers(self) -> dict[str, str]:
        """The token, read again once a minute."""
        if time.monotonic() - self._read_s > _TOKEN_GOOD_S:
            try:
                self._token = self._read_token()
            except OSError as error:
                raise CredentialsError(str(error)) from error
        return {"authorization": f"Bearer {self._token}"}

    def _read_token(self) -> str:
        token = self._token_path.read_text(encoding="utf-8").strip()
        self._read_s = time.monotonic()
        return token


class Kubeconfig:
    """A context of a kubeconfig, the current one where none is named."""

    def __init__(self, path: Path, context: str | None) -> None:
        from kubernetes.client import Configuration
        from kubernetes.config import (
            ConfigException,
            list_kube_config_contexts,
            load_kube_config,
        )
        from yaml import YAMLError

        self.trust_hint = (
            "mend certificate-authority in the kubeconfig, or set insecure-skip-tls-verify there"
        )
        self._configuration, self._refusal = Configuration(), ConfigException
        try:
            load_kube_config(str(path), context, self._configuration, persist_config=False)
            contexts, current = list_kube_config_contexts(str(path))
            chosen = next((each for each in contexts if each["name"] == context), current)
            self.cluster_name: str | None = str(chosen["context"]["cluster"])
            self.pool = _pool(self._configuration)
        except (ConfigException, OSError, ValueError, TypeError, YAMLError) as error:
            text = str(error)
            if isinstance(error, YAMLError):
                mark = getattr(error, "problem_mark", None)
                text = f"it is no YAML, at line {mark.line + 1}" if mark else "it is no YAML"
            elif isinstance(error, TypeError):
                text = "it is no kubeconfig"
            raise UsageError(
                f"{path}: {' '.join(text.split())}",
                hint=f"check it with: kubectl --kubeconfig {path} config view",
            ) from error
        self.url = str(self._configuration.host)

    def headers(self) -> dict[str, str]:
        """The token, if any: an exec plugin is run again when its own has expired."""
        try:
            token = self._configuration.get_api_key_with_prefix("BearerToken", "authorization")
        except (self._refusal, OSError) as error:
            raise CredentialsError(str(error)) from error
        return {"authorization": token} if token else {}


def tls_context(authority: Path | None) -> ssl.SSLContext:
    """
    Check chain and name as Go's clients do, by this authority or else by the system's.

    Python 3.13 also asks for what RFC 5280 has (VERIFY_X509_STRICT): an authority without
    keyUsage, which kubectl and kubelet accept, is none there. Go takes any certificate it is told
    to trust as the chain's end, whether or not it signs itself.
    """
    context = ssl.create_default_context(cafile=authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _pool(configuration: Any) -> "PoolManager":
    """Connections as the kubeconfig wants them."""
    from kubernetes.client.rest import should_bypass_proxies
    from urllib3 import PoolManager, ProxyManager, disable_warnings
    from urllib3.exceptions import InsecureRequestWarning

    chosen: dict[str, Any] = {"maxsize": len(RESOURCES)}
    if configuration.host.startswith("https"):
        authority = configuration.ssl_ca_cert
        chosen["ssl_context"] = context = tls_context(Path(authority) if authority else None)
        if not configuration.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            # The kubeconfig says so; a warning a request would be all there is to read.
            disable_warnings(InsecureRequestWarning)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        if configuration.tls_server_name:
            chosen["server_hostname"] = configuration.tls_server_name
    proxy = configuration.proxy
    if not proxy or should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
        return PoolManager(**chosen)
    if proxy.startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager

        return SOCKSProxyManager(proxy, headers=configuration.proxy_headers, **chosen)
    return ProxyManager(proxy, proxy_headers=configuration.proxy_headers, **chosen)
