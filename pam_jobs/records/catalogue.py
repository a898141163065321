"""The record types we know, the fields each has, and which of them must be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pam_jobs.errors import InvalidInput
from pam_jobs.records.portmap import DATABASE_TYPES, PortMapping
from pam_jobs.records.record import Record
from pam_jobs.records.schedule import parse_schedule

__all__ = [
    "DATABASE_TYPES",
    "DIRECTORY_TYPES",
    "PAM_USER",
    "TYPES",
    "FieldSpec",
    "fields_of",
    "is_configuration",
    "is_resource",
    "validate",
]

PAM_USER: Final = "pamUser"
DIRECTORY_TYPES: Final = ("active_directory", "openldap")


@dataclass(frozen=True)
class FieldSpec:
    """One standard field of a record type."""

    kind: str  # the field's type
    label: str = ""
    required: bool = False
    legacy: bool = False  # older records have it; new ones get it only when it is given

    @property
    def name(self) -> str:
        """What people call the field."""
        return self.label or self.kind


def _specs(text: str) -> tuple[FieldSpec, ...]:
    """Read a table row: ``kind`` or ``kind label`` parted by commas, ``!`` for required, ``?`` for legacy."""
    specs = []
    for part in text.split(","):
        kind, _, label = part.strip().rstrip("!?").partition(" ")
        specs.append(FieldSpec(kind, label, required=part.endswith("!"), legacy=part.endswith("?")))
    return tuple(specs)


_TAIL = "text providerGroup, text providerRegion, fileRef, oneTimeCode"
_LEGACY_LOGIN = "login?, password?, secret privatePEMKey?"
_ATTACHED = "pamSettings?, trafficEncryptionSeed?"
_CONFIGURATION = (
    "pamResources!, schedule defaultRotationSchedule!, multiline portMapping, text identityProviderUid,"
    " script rotationScripts, fileRef, "
)

TYPES: Final[Mapping[str, tuple[FieldSpec, ...]]] = {
    "login": _specs("login, password, url, fileRef, oneTimeCode"),
    "file": _specs("fileRef"),
    PAM_USER: _specs(
        "login!, password, script rotationScripts, secret privatePEMKey, text distinguishedName, text connectDatabase,"
        " checkbox managed, fileRef, oneTimeCode"
    ),
    "pamMachine": _specs(
        "pamHostname!, script rotationScripts, text operatingSystem, checkbox sslVerification, text instanceName,"
        f" text instanceId, {_TAIL}, {_LEGACY_LOGIN}, {_ATTACHED}"
    ),
    "pamDatabase": _specs(
        "pamHostname, checkbox useSSL, script rotationScripts, text connectDatabase, text databaseId, databaseType,"
        f" {_TAIL}, {_LEGACY_LOGIN}, {_ATTACHED}"
    ),
    "pamDirectory": _specs(
        "pamHostname, checkbox useSSL, script rotationScripts, text domainName, multiline alternativeIPs,"
        f" text directoryId, directoryType, text userMatch, {_TAIL}, {_LEGACY_LOGIN}, text distinguishedName?,"
        f" {_ATTACHED}"
    ),
    "pamRemoteBrowser": _specs(f"rbiUrl, pamRemoteBrowserSettings, fileRef, oneTimeCode, {_ATTACHED}"),
    "pamCloudResource": _specs("fileRef, oneTimeCode"),
    "saasConfiguration": _specs("fileRef"),
    "pamNetworkConfiguration": _specs(_CONFIGURATION + "text networkId, text networkCIDR"),
    "pamLocalConfiguration": _specs(_CONFIGURATION + "text networkId, text networkCIDR"),
    "pamAwsConfiguration": _specs(
        _CONFIGURATION + "text awsId!, secret accessKeyId, secret accessSecretKey, multiline regionNames"
    ),
    "pamAzureConfiguration": _specs(
        _CONFIGURATION + "text azureId!, secret clientId, secret clientSecret, secret subscriptionId!,"
        " secret tenantId!, multiline resourceGroups"
    ),
    "pamDomainConfiguration": _specs(
        _CONFIGURATION + "text pamDomainId, pamHostname, checkbox useSSL, checkbox scanDCCIDR, text networkCIDR,"
        " text userMatch"
    ),
    "pamGcpConfiguration": _specs(
        _CONFIGURATION + "text pamGcpId, json pamServiceAccountKey, email pamGoogleAdminEmail,"
        " multiline pamGcpRegionName"
    ),
    "pamOciConfiguration": _specs(
        _CONFIGURATION + "text pamOciId, secret adminOcid, secret adminPublicKey, secret adminPrivateKey,"
        " text tenancyOci, text regionOci"
    ),
    "pamGitHubConfiguration": _specs(
        _CONFIGURATION + "text pamGitHubId, secret pamGitHubPersonalAccessToken, text pamGitHubBaseUrl"
    ),
    "pamHashiCorpConfiguration": _specs(
        _CONFIGURATION + "text pamHashiCorpId, text pamHashiCorpVaultBaseUrl, secret pamHashiCorpVaultToken,"
        " text pamHashiCorpVaultNamespace, text pamHashiCorpVaultMountPath"
    ),
}
"""Record types and their fields in order."""

_RESOURCES: Final = frozenset({"pamMachine", "pamDatabase", "pamDirectory", "pamRemoteBrowser", "pamCloudResource"})
_CHOICES: Final = {"databaseType": DATABASE_TYPES, "directoryType": DIRECTORY_TYPES}


def fields_of(record_type: str) -> tuple[FieldSpec, ...]:
    """Return the standard fields of a record type in order.

    Raises:
        InvalidInput: the type is unknown.
    """
    if record_type not in TYPES:
        raise InvalidInput(f"{record_type!r} is not a record type", remedy="use one of " + ", ".join(TYPES))
    return TYPES[record_type]


def is_resource(record_type: str) -> bool:
    """Say whether records of this type are targets that users live on."""
    return record_type in _RESOURCES


def is_configuration(record_type: str) -> bool:
    """Say whether records of this type are PAM configurations."""
    return record_type.startswith("pam") and record_type.endswith("Configuration") and record_type in TYPES


def validate(record: Record) -> None:
    """Accept a record that is complete and whose standard fields make sense.

    Raises:
        InvalidInput: the type is unknown, a required field is missing, or a field holds a wrong value.
    """
    specs = fields_of(record.type)
    if not record.title.strip():
        raise InvalidInput(f"the {record.type} record has no title", remedy="give it a title")
    for spec in specs:
        value = record.field(spec.kind, spec.label or None)
        if spec.required and _is_blank(spec, value):
            raise InvalidInput(
                f"the {record.type} record {record.title!r} has no {spec.name}", remedy=f"set {_example(spec)}"
            )
        if value not in (None, ""):
            _check_value(record, spec, value)


def _is_blank(spec: FieldSpec, value: Any) -> bool:
    if spec.kind == "pamHostname":
        return not (isinstance(value, dict) and str(value.get("hostName") or "").strip())
    if spec.kind == "pamResources":
        return not (isinstance(value, dict) and value.get("controllerUid"))
    return value is None or (isinstance(value, str) and not value.strip())


def _example(spec: FieldSpec) -> str:
    return {
        "pamHostname": "host=NAME and port=NUMBER",
        "pamResources": "the gateway that serves the configuration",
        "schedule": 'defaultRotationSchedule, such as [{"type":"ON_DEMAND"}]',
    }.get(spec.kind, f"{spec.name}=VALUE")


def _check_value(record: Record, spec: FieldSpec, value: Any) -> None:
    if spec.kind == "pamHostname":
        _ = record.port  # raises when it is none
    elif spec.kind == "checkbox" and not isinstance(value, bool):
        raise InvalidInput(f"{spec.name} of the record is not true or false", remedy=f"set {spec.name}=true or false")
    elif spec.kind == "schedule":
        parse_schedule(record.values(spec.kind, spec.label))
    elif spec.kind == "script":
        _ = record.scripts  # raises when one names no file
    elif spec.label == "portMapping":
        PortMapping.parse(str(value))
    elif spec.kind in _CHOICES and value not in _CHOICES[spec.kind]:
        raise InvalidInput(f"{value!r} is not a {spec.kind}", remedy="use one of " + ", ".join(_CHOICES[spec.kind]))
