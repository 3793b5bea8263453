"""Whether an object has only fields that Kubernetes' OpenAPI knows, by the client made from it."""

import re
from importlib import import_module
from typing import Any

MODELS = {
    "Namespace": "V1Namespace",
    "ServiceAccount": "V1ServiceAccount",
    "ClusterRole": "V1ClusterRole",
    "ClusterRoleBinding": "V1ClusterRoleBinding",
    "Pod": "V1Pod",
    "DeleteOptions": "V1DeleteOptions",
}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def faults(value: Any, kind: str, where: str = "") -> list[str]:  # noqa: PLR0911
    """List what is unknown, missing or of another type in an object of this model."""
    if (inner := re.fullmatch(r"[Ll]ist\[(.*)\]", kind)) is not None:
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [e for i, each in enumerate(value) for e in faults(each, inner[1], f"{where}[{i}]")]
    if (inner := re.fullmatch(r"[Dd]ict(?:\[|\()str, (.*)(?:\]|\))", kind)) is not None:
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        of = inner[1]
        return [e for key, each in value.items() for e in faults(each, of, f"{where}.{key}")]
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if right else [f"{where} is no {kind}"]
    if kind in ("object", "datetime"):
        return []
    if not isinstance(value, dict):
        return [f"{where} is no {kind}"]
    model = getattr(import_module("kubernetes.client.models"), kind)
    names = {written: name for name, written in model.attribute_map.items()}
    found = [f"{where}.{key} is unknown" for key in value if key not in names]
    for key, each in value.items():
        if key in names:
            found += faults(each, model.openapi_types[names[key]], f"{where}.{key}")
    return found
