"""The URL that the operator of CloudNativePG gives, and what becomes of it in a pod."""

import certifi

TLS = {"sslmode": "verify-full", "sslrootcert": certifi.where()}
_URI = "postgresql://app:much-to-guess@plinth-database-rw.shop:5432/app"


def in_the_pod(value: str) -> str:
    """A variable as Kubernetes fills it in, with a file of authorities that is here."""
    return value.replace("$(CLUSTER_URI)", _URI).replace("/run/database-ca/ca.crt", certifi.where())
