"""The domain on one of its controllers, over WinRM: the same requests as over LDAP, made by the controller itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from connectors.ldap.errors import LdapRefusal
from connectors.ldap.link import Entry
from connectors.windows.programs import Answer, Program
from pam_jobs.errors import Unsupported

__all__ = ["RESET", "SEARCH", "RemoteDirectory", "refusal_of"]

_CONNECT: Final = r"""
Add-Type -AssemblyName System.DirectoryServices.Protocols
$l=New-Object DirectoryServices.Protocols.LdapConnection('localhost')
$l.SessionOptions.ProtocolVersion=3;$l.SessionOptions.Signing=$true;$l.SessionOptions.Sealing=$true
$l.SessionOptions.ReferralChasing='None'
"""
_SEND: Final = r"""
$r=@{code=0;text='';entries=@()}
try{
$a=$l.SendRequest($q);$r.code=[int]$a.ResultCode;$r.text=[string]$a.ErrorMessage
}catch{
$e=$_.Exception
while($e.InnerException -and -not $e.Response){$e=$e.InnerException}
if(-not $e.Response){throw}
$r.code=[int]$e.Response.ResultCode;$r.text=[string]$e.Response.ErrorMessage
}
"""

SEARCH: Final = Program(
    name="search",
    body=_CONNECT
    + r"""
$q=New-Object DirectoryServices.Protocols.SearchRequest
$q.DistinguishedName=$d.base;$q.Filter=$d.filter;$q.Scope=$d.scope
foreach($n in $d.attributes){[void]$q.Attributes.Add($n)}
"""
    + _SEND
    + r"""
if($r.code -eq 0){
$r.entries=@(foreach($x in $a.Entries){$v=@{}
foreach($n in $x.Attributes.AttributeNames){$v[$n]=@(foreach($b in $x.Attributes[$n].GetValues([byte[]])){$c::ToBase64String($b)})}
@{dn=$x.DistinguishedName;values=$v}})
}
""",
)
"""Facts ``base``, ``filter``, ``scope`` (Base, Subtree), ``attributes``. What the controller's own directory answers to one search:
its result's code and text, and each entry's values in base64. On a machine that is no controller it fails."""

RESET: Final = Program(
    name="reset",
    body=_CONNECT
    + r"""
$q=New-Object DirectoryServices.Protocols.ModifyRequest
$q.DistinguishedName=$d.dn
$m=New-Object DirectoryServices.Protocols.DirectoryAttributeModification
$m.Name='unicodePwd';$m.Operation='Replace'
[void]$m.Add([Text.Encoding]::Unicode.GetBytes('"'+$p+'"'));[void]$q.Modifications.Add($m)
foreach($b in $d.beside){
$m=New-Object DirectoryServices.Protocols.DirectoryAttributeModification
$m.Name=$b.name;$m.Operation='Replace'
[void]$m.Add([string]$b.value);[void]$q.Modifications.Add($m)
}
"""
    + _SEND,
)
"""Facts ``dn``, ``beside`` (names and values of other attributes); secret: the new password. One modification of the account, so
that all of it is set or nothing; the result's code and text. As an administrator."""

_SCOPES: Final[Mapping[str, str]] = {"base": "Base", "subtree": "Subtree"}


class _Ask(Protocol):
    def __call__(self, program: Program, facts: Mapping[str, object], /) -> Answer:
        """Run a program that changes nothing."""
        ...


class RemoteDirectory:
    """The domain as its controller shows it to who is logged in over WinRM."""

    def __init__(self, ask: _Ask | Callable[[Program, Mapping[str, object]], Answer]) -> None:
        """Use a session's way to run programs."""
        self._ask = ask

    def root(self) -> Entry:
        """Return the controller's own entry (root DSE).

        Raises:
            Unsupported: the machine is no controller.
        """
        names = ["supportedCapabilities", "defaultNamingContext", "configurationNamingContext", "dnsHostName"]
        return next(iter(self.search("", "(objectClass=*)", names, "base")), Entry(dn=""))

    def search(self, base: str, filter_text: str, attributes: list[str], scope: str = "subtree") -> list[Entry]:
        """Return the entries that match; references to other servers are not followed.

        Raises:
            LdapRefusal: the directory answered with another result than success.
            Unsupported: the machine is no controller.
            NotApplied: the machine did not answer.
        """
        facts = {"base": base, "filter": filter_text, "scope": _SCOPES[scope], "attributes": attributes}
        answer = self._ask(SEARCH, facts)
        if not answer.ok or not isinstance(answer.value, dict):
            said = " ".join(answer.text.split())[-200:]
            raise Unsupported(
                f"the machine does not answer as a domain controller does: {said}",
                remedy="name domain controllers in the resource's host and alternative IPs",
            )
        if refusal := refusal_of(answer.value):
            raise refusal
        return [_entry(each) for each in answer.value.get("entries") or []]


def refusal_of(value: Mapping[str, Any]) -> LdapRefusal | None:
    """Return why the directory did not do what a program asked of it; None: it did."""
    code = value.get("code")
    if code == 0:
        return None
    text = str(value.get("text") or "").rstrip("\0 \r\n")
    return LdapRefusal(code=code if isinstance(code, int) else -1, text=text)


def _entry(told: Any) -> Entry:
    """Return an entry of the program's answer.

    Raises:
        Unsupported: it is none.
    """
    try:
        values = {
            str(name).lower(): tuple(base64.b64decode(value, validate=True) for value in each)
            for name, each in told["values"].items()
        }
        return Entry(dn=str(told["dn"]), values=values)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unsupported("the machine does not tell of its directory as a domain controller does") from None
