"""The PowerShell programs that run on Windows machines: constant texts, so that what the machine logs of them has no secret.

Everything that varies goes to standard input, in base64 so that no code page touches it: a line of JSON with plain facts,
then one line a secret. The programs hand secrets to methods and never to the parameters of a command, because
Windows logs those where module logging is on. The answer is one marked line on standard output.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pam_jobs.errors import Unsupported
from pam_jobs.secret import SecretValue

__all__ = [
    "ANSWER",
    "CHANGE_OWN",
    "CHECK",
    "COMMAND_LIMIT",
    "LIST",
    "LOOK",
    "POWERSHELL",
    "PROGRAMS",
    "REMOVE",
    "RULES",
    "RUN",
    "SET",
    "UPLOAD",
    "Answer",
    "Program",
    "command_line",
    "encode_input",
    "read_answer",
]

ANSWER = "pam-jobs:"
"""What the line begins with that holds the answer; whatever a profile or policy prints stands before it."""

POWERSHELL = "powershell.exe"
COMMAND_LIMIT = 8191
"""Characters that cmd.exe, which WinRM and sshd begin with, takes as one command."""

_BEFORE = """\
$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue'
$t=[Text.Encoding]::UTF8;$c=[Convert];$r=$null;$code=0
function Say($x){'pam-jobs:'+[Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes((ConvertTo-Json $x -Compress -Depth 5)))}
try{
$i=@($input)
$d=ConvertFrom-Json $t.GetString($c::FromBase64String($i[0]))
$p=$t.GetString($c::FromBase64String([string]$i[1]))
"""
_AFTER = """
Say @{ok=$true;value=$r}
}catch{
$e=$_.Exception
while($e.InnerException){$e=$e.InnerException}
$code=$e.HResult
if($e -is [ComponentModel.Win32Exception]){$code=$e.NativeErrorCode}
Say @{ok=$false;kind=$e.GetType().FullName;code=$code;text=$e.Message}
exit 1
}
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program: its name is for people, its text is what a machine gets, the same every time."""

    name: str
    body: str

    @property
    def text(self) -> str:
        """The whole program."""
        return _BEFORE + self.body.strip() + _AFTER


LOOK = Program(
    name="look",
    body=r"""
$w=[Security.Principal.WindowsIdentity]::GetCurrent()
$s=Get-CimInstance Win32_ComputerSystem;$o=Get-CimInstance Win32_OperatingSystem
$r=@{me=$w.Name;computer=$env:COMPUTERNAME;domain=$s.Domain;joined=$s.PartOfDomain;controller=($s.DomainRole -ge 4)
version=$o.Caption+' '+$o.Version;user=$null
admin=([Security.Principal.WindowsPrincipal]$w).IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)}
$path="WinNT://$env:COMPUTERNAME/"+$d.login+',user'
if([DirectoryServices.DirectoryEntry]::Exists($path)){
$u=[ADSI]$path
$r.user=@{name=$u.Name.Value;full=$u.FullName.Value;minimum=$u.MinPasswordAge.Value;flags=$u.UserFlags.Value;age=$u.PasswordAge.Value;maximum=$u.MaxPasswordAge.Value
expired=$u.PasswordExpired.Value;length=$u.MinPasswordLength.Value;history=$u.PasswordHistoryLength.Value
failures=$u.BadPasswordAttempts.Value;threshold=$u.MaxBadPasswordsAllowed.Value;expires=$null}
try{$r.user.expires=([DateTime]$u.AccountExpirationDate.Value).ToString('s')}catch{}
}
""",
)
"""Facts ``login``. Who we are, what the machine is, and the account with the rules for its password; changes nothing."""

RULES = Program(
    name="rules",
    body=r"""
$f=[IO.Path]::GetTempFileName();$r=@{}
try{
[void](& ([IO.Path]::Combine($env:SystemRoot,'System32','secedit.exe')) /export /areas SECURITYPOLICY /cfg $f /quiet)
foreach($l in [IO.File]::ReadAllLines($f)){
if($l -match '^\s*(PasswordComplexity|PasswordHistorySize|MinimumPasswordLength)\s*=\s*(-?\d+)\s*$'){$r[$Matches[1]]=[int]$Matches[2]}}
}finally{[IO.File]::Delete($f)}
""",
)
"""No facts. The machine's rules for passwords under secedit's own names, which are the same in every language; a file of its own
is written for it and removed again. As an administrator."""

SET = Program(
    name="set",
    body=r"""
$s=Get-CimInstance Win32_ComputerSystem
if($s.DomainRole -lt 4 -and (Get-Command Set-LocalUser -ErrorAction SilentlyContinue)){
$v=New-Object Security.SecureString
foreach($x in $p.ToCharArray()){$v.AppendChar($x)}
Set-LocalUser -Name $d.login -Password $v;$r='Set-LocalUser'
}else{
([ADSI]("WinNT://$env:COMPUTERNAME/"+$d.login+',user')).SetPassword($p);$r='ADSI'
}
""",
)
"""Facts ``login``; secret: the new password. As an administrator."""

CHANGE_OWN = Program(
    name="change_own",
    body=r"""
$q=$t.GetString($c::FromBase64String([string]$i[2]))
([ADSI]("WinNT://$env:COMPUTERNAME/"+$d.login+',user')).ChangePassword($q,$p);$r='ADSI'
""",
)
"""Facts ``login``; secrets: the new password, the present one. As the account itself."""

CHECK = Program(
    name="check",
    body=r"""
$m='[DllImport("advapi32.dll",SetLastError=true,CharSet=CharSet.Unicode)]
static extern bool LogonUserW(string u,string d,string p,int kind,int provider,out IntPtr handle);
[DllImport("kernel32.dll")]static extern bool CloseHandle(IntPtr handle);
public static int Try(string u,string d,string p){IntPtr h;
if(LogonUserW(u,d==""?null:d,p,3,0,out h)){CloseHandle(h);return 0;}return Marshal.GetLastWin32Error();}'
$l=Add-Type -MemberDefinition $m -Name Logon -Namespace PamJobs -PassThru
$r=$l::Try($d.login,$d.domain,$p)
""",
)
"""Facts ``login``, ``domain`` (empty in a login with ``@``, ``.`` for a local one); secret: the password. One network logon; the
answer is its Win32 code, 0 when it succeeded."""

LIST = Program(
    name="list",
    body=r"""
$r=@(foreach($u in ([ADSI]"WinNT://$env:COMPUTERNAME").Children){if($u.SchemaClassName -eq 'user'){
@{name=$u.Name.Value;flags=$u.UserFlags.Value;age=$u.PasswordAge.Value
sid=(New-Object Security.Principal.SecurityIdentifier($u.objectSid.Value,0)).Value}}})
""",
)
"""No facts. The machine's accounts."""

UPLOAD = Program(
    name="upload",
    body=r"""
$h=$d.parent;if(-not $h){$h=[IO.Path]::GetTempPath()}
$f=[IO.Path]::Combine($h,'pam-jobs.'+[Guid]::NewGuid().ToString('N'))
$a=New-Object Security.AccessControl.DirectorySecurity
$a.SetSecurityDescriptorSddlForm('D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;'+[Security.Principal.WindowsIdentity]::GetCurrent().User.Value+')')
[void](New-Item -ItemType Directory -Path $f);Set-Acl -LiteralPath $f -AclObject $a
$r=[IO.Path]::Combine($f,$d.name);[IO.File]::WriteAllBytes($r,$c::FromBase64String($p))
""",
)
"""Facts ``parent`` (may be empty), ``name``; secret: the content in base64. The path of the new file, in a folder of its own."""

REMOVE = Program(
    name="remove",
    body=r"""
$f=[IO.Path]::GetDirectoryName($d.path)
if([IO.Path]::GetFileName($f) -notlike 'pam-jobs.*'){throw 'none of our folders'}
if([IO.Directory]::Exists($f)){[IO.Directory]::Delete($f,$true)}
""",
)
"""Facts ``path``, of ``upload``. Removes the file with its folder."""

RUN = Program(
    name="run",
    body=r"""
$n=New-Object Diagnostics.ProcessStartInfo($d.file,$d.arguments)
$n.UseShellExecute=$false;$n.CreateNoWindow=$true
$n.RedirectStandardInput=$true;$n.RedirectStandardOutput=$true;$n.RedirectStandardError=$true
if($d.folder){$n.WorkingDirectory=$d.folder}
$x=[Diagnostics.Process]::Start($n);$a=$x.StandardOutput.ReadToEndAsync();$b=$x.StandardError.ReadToEndAsync()
$y=$c::FromBase64String($p)
try{$x.StandardInput.BaseStream.Write($y,0,$y.Length);$x.StandardInput.Close()}catch{}
$x.WaitForExit()
$r=@{exit=$x.ExitCode;out=$a.Result;err=$b.Result}
""",
)
"""Facts ``file``, ``arguments`` (one line as programs on Windows read it), ``folder``; secret: standard input in base64."""

PROGRAMS = (LOOK, RULES, SET, CHANGE_OWN, CHECK, LIST, UPLOAD, REMOVE, RUN)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a program answered."""

    ok: bool
    value: Any = None
    kind: str = ""  # .NET's name of the exception
    code: int = 0  # Win32 code where it is at most 65535, else an HRESULT
    text: str = ""  # in the machine's language


def command_line(program: Program, shell: str | None = None) -> str:
    """Return the command that runs a program: constant, and free of anything that a shell would read.

    Args:
        program: which.
        shell: PowerShell by another path, the custom field ``Shell``.

    Raises:
        Unsupported: the path is none that can stand in a command.
    """
    encoded = base64.b64encode(program.text.encode("utf-16-le")).decode()
    path = shell or POWERSHELL
    if not re.fullmatch(r"[\w\\/:. ()~-]{1,260}", path) or path.startswith("-"):
        raise Unsupported(
            "the path of the shell cannot stand in a command", remedy="correct the custom field 'Shell' of the record"
        )
    quoted = f'"{path}"' if re.search(r"[ ()]", path) else path
    return f"{quoted} -NoLogo -NoProfile -NonInteractive -EncodedCommand {encoded}"


def encode_input(facts: Mapping[str, object], *secrets: SecretValue) -> bytes:
    """Return the standard input of a program."""
    lines = [json.dumps(facts), *(secret.reveal() for secret in secrets)]
    return b"".join(base64.b64encode(line.encode()) + b"\r\n" for line in lines)


def read_answer(stdout: str) -> Answer | None:
    """Return the answer that stands in the output, or None when there is none."""
    lines = [line.strip() for line in stdout.splitlines() if line.strip().startswith(ANSWER)]
    if not lines:
        return None
    try:
        told = json.loads(base64.b64decode(lines[-1].removeprefix(ANSWER), validate=True))
    except ValueError:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("ok"), bool):
        return None
    code = told.get("code")
    return Answer(
        ok=told["ok"],
        value=told.get("value"),
        kind=str(told.get("kind") or ""),
        code=_win32(code) if isinstance(code, int) else 0,
        text=str(told.get("text") or ""),
    )


def _win32(code: int) -> int:
    """Return the Win32 code within an HRESULT of that facility, or the code itself."""
    unsigned = code & 0xFFFFFFFF
    return unsigned & 0xFFFF if unsigned >> 16 == 0x8007 else unsigned
