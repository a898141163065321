"""The PowerShell programs for what runs as an account: services, scheduled tasks, application pools, COM+ and DCOM.

They go by the rules of ``programs``: constant texts, secrets to methods alone. None grants a right, none changes under which
account something runs.
"""

from __future__ import annotations

from connectors.windows.programs import Program

__all__ = [
    "COM_PLUS_SET",
    "DCOM_SET",
    "LISTS",
    "POOL_SET",
    "SERVICE_FIND",
    "SERVICE_PROGRAMS",
    "SERVICE_RESTART",
    "SERVICE_SET",
    "TASK_FIND",
    "TASK_SET",
]

SERVICE_FIND = Program(
    name="service_find",
    body=r"""
$q=$d.name.Replace('\','\\').Replace("'","\'")
$s=Get-CimInstance Win32_Service -Filter "Name='$q'"
if($s){
$r=@{name=$s.Name;account=$s.StartName;state=$s.State;computer=$env:COMPUTERNAME;ran=$null;age=$null;left=$false}
$k='HKLM:\SOFTWARE\pam-jobs\restart'
if(Test-Path $k){$r.left=(Get-Item $k).GetValueNames() -contains $s.Name}
if($s.ProcessId){try{$r.ran=((Get-Date)-(Get-Process -Id $s.ProcessId).StartTime).TotalSeconds}catch{}}
if($d.login){try{$r.age=([ADSI]("WinNT://$env:COMPUTERNAME/"+$d.login+',user')).PasswordAge.Value}catch{}}
}
""",
)
"""Facts ``name``, ``login`` of a local account or empty. The account, whether it runs and for how many seconds, how old the
account's password is, and whether a restart was cut off; null when there is no such service."""

SERVICE_SET = Program(
    name="service_set",
    body=r"""
$q=$d.name.Replace('\','\\').Replace("'","\'")
$n='Microsoft.Management.Infrastructure.'
$i=([type]($n+'CimSession'))::Create($null)
$s=@($i.QueryInstances('root/cimv2','WQL',"SELECT * FROM Win32_Service WHERE Name='$q'"))[0]
$a=New-Object ($n+'CimMethodParametersCollection')
$f=[type]($n+'CimMethodParameter');$w=[Microsoft.Management.Infrastructure.CimType]::String
$a.Add($f::Create('StartName',[string]$s.StartName,$w,0))
$a.Add($f::Create('StartPassword',$p,$w,0))
$r=[int]$i.InvokeMethod($s,'Change',$a).ReturnValue.Value
""",
)
"""Facts ``name``; secret: the password. The answer is the code of ``Win32_Service.Change``, 0 when it was stored."""

SERVICE_RESTART = Program(
    name="service_restart",
    body=r"""
Get-Service -Name 'EventLog'|Out-Null
$k='HKLM:\SOFTWARE\pam-jobs\restart';$e=[TimeSpan]::FromSeconds($d.wait)
function Of($x){New-Object ServiceProcess.ServiceController($x)}
$m=@();if(Test-Path $k){$v=[string](Get-Item $k).GetValue($d.name);if($v){$m=$v.Split('|')}}
$s=Of $d.name;$o=@($s.DependentServices|Where-Object{$_.Status -eq 'Running'}|ForEach-Object{$_.ServiceName})
[array]::Reverse($o);$o=@($s.ServiceName)+$o
foreach($x in $m){if($o -notcontains $x){$o+=$x}}
if(-not(Test-Path $k)){[void](New-Item $k -Force)}
[void](New-ItemProperty $k -Name $d.name -Value ($o -join '|') -Force)
$b=@($o);[array]::Reverse($b)
foreach($x in $b){$y=Of $x;if($y.Status -ne 'Stopped'){try{$y.Stop()}catch{};$y.WaitForStatus('Stopped',$e)}}
$r=@{started=@();failed=@()}
foreach($x in $o){try{$y=Of $x;$y.Start();$y.WaitForStatus('Running',$e);$r.started+=$x}catch{
$z=$_.Exception;while($z.InnerException){$z=$z.InnerException}
$g=$z.HResult;if($z -is [ComponentModel.Win32Exception]){$g=$z.NativeErrorCode}
$r.failed+=@{name=$x;code=$g;text=$z.Message};if($x -eq $s.ServiceName){break}}}
Remove-ItemProperty $k -Name $d.name
if(-not (Get-Item $k).ValueCount){Remove-Item $k}
""",
)
"""Facts ``name``, ``wait`` in seconds for each. Stops the service with what runs on top of it, and starts them again, the service
first. What has to come up is noted in the registry until it has, so that a restart that was cut off is finished later."""

_TASK = r"""
$v=New-Object -ComObject Schedule.Service;$v.Connect()
$g=$d.name.LastIndexOf('\');$f=$v.GetFolder($(if($g -gt 0){$d.name.Substring(0,$g)}else{'\'}))
$x=@($f.GetTasks(1)|Where-Object{$_.Name -eq $d.name.Substring($g+1)})[0]
"""
TASK_FIND = Program(
    name="task_find",
    body=_TASK
    + r"""
if($x){$u=[string]$x.Definition.Principal.UserId
if($u -like 'S-1-*'){try{$u=(New-Object Security.Principal.SecurityIdentifier($u)).Translate([Security.Principal.NTAccount]).Value}catch{}}
$r=@{name=$x.Path;account=$u;logon=[int]$x.Definition.Principal.LogonType;computer=$env:COMPUTERNAME}}
""",
)
"""Facts ``name``, the whole path. The account and the kind of logon, 1 and 6 being those with a password."""

TASK_SET = Program(
    name="task_set",
    body=_TASK
    + r"""
$q=$x.Definition.Principal
$r=$f.RegisterTaskDefinition($x.Name,$x.Definition,20,$q.UserId,$p,[int]$q.LogonType,$null).Path
""",
)
"""Facts ``name``; secret: the password. Registers the task's own definition again; Windows tries the password."""

_POOL = r"""
[void][Reflection.Assembly]::LoadFrom("$env:windir\System32\inetsrv\Microsoft.Web.Administration.dll")
$m=New-Object Microsoft.Web.Administration.ServerManager
"""
POOL_SET = Program(
    name="pool_set",
    body=_POOL
    + r"""
$x=$m.ApplicationPools[$d.name]
if($x){$o=$x.ProcessModel
$r=@{name=$x.Name;account=$o.UserName;identity=[string]$o.IdentityType;computer=$env:COMPUTERNAME;done=$false;state=[string]$x.State;recycled=$false}
if($r.identity -eq 'SpecificUser' -and $d.names -contains $o.UserName.ToLowerInvariant()){
if($o.Password -ceq $p){$r.done=$true}else{
$o.Password=$p;$m.CommitChanges();$r.set=$true
if($r.state -eq 'Started'){$x=(New-Object Microsoft.Web.Administration.ServerManager).ApplicationPools[$d.name];[void]$x.Recycle();$r.recycled=$true}}}}
""",
)
"""Facts ``name``, ``names`` that are meant, in lower case; secret: the password. A pool that runs is recycled; one that has
the password already is left."""

_COM_PLUS = r"""
$v=New-Object -ComObject COMAdmin.COMAdminCatalog;$a=$v.GetCollection('Applications');$a.Populate()
"""
COM_PLUS_SET = Program(
    name="com_plus_set",
    body=_COM_PLUS
    + r"""
foreach($x in $a){if($x.Name -eq $d.name -or $x.Key -eq $d.name){
$r=@{name=$x.Name;account=[string]$x.Value('Identity');computer=$env:COMPUTERNAME;restarted=$false}
if($d.names -contains $r.account.ToLowerInvariant()){
$x.Value('Password')=$p;[void]$a.SaveChanges();$r.set=$true
$y=$v.GetCollection('ApplicationInstances');$y.Populate()
if(@($y|Where-Object{$_.Value('Application') -eq $x.Key}).Count){$v.ShutdownApplication($x.Key);$v.StartApplication($x.Key);$r.restarted=$true}}
break}}
""",
)
"""Facts ``name`` or application id, ``names`` that are meant, in lower case; secret: the password."""

DCOM_SET = Program(
    name="dcom_set",
    body=r"""
$h=[Microsoft.Win32.Registry]::ClassesRoot.OpenSubKey('AppID')
foreach($g in $h.GetSubKeyNames()){if($g -notlike '{*'){continue};$x=$h.OpenSubKey($g)
if($g -ne $d.name -and [string]$x.GetValue('') -ne $d.name){continue}
$r=@{name=$g;account=[string]$x.GetValue('RunAs');computer=$env:COMPUTERNAME}
if($d.names -contains $r.account.ToLowerInvariant()){
$m='[StructLayout(LayoutKind.Sequential)]struct S{public ushort n,m;public IntPtr b;}
[StructLayout(LayoutKind.Sequential)]struct A{public int l;public IntPtr r,n;public int a;public IntPtr s,q;}
[DllImport("advapi32.dll")]static extern uint LsaOpenPolicy(IntPtr s,ref A a,int w,out IntPtr h);
[DllImport("advapi32.dll")]static extern uint LsaStorePrivateData(IntPtr h,ref S k,ref S v);
[DllImport("advapi32.dll")]static extern uint LsaClose(IntPtr h);
[DllImport("advapi32.dll")]static extern int LsaNtStatusToWinError(uint s);
static S Of(string t){var s=new S();s.b=Marshal.StringToHGlobalUni(t);s.n=(ushort)(t.Length*2);s.m=(ushort)(s.n+2);return s;}
public static int Put(string k,string v){var a=new A();IntPtr h;uint e=LsaOpenPolicy(IntPtr.Zero,ref a,0x20,out h);
if(e==0){S x=Of(k),y=Of(v);e=LsaStorePrivateData(h,ref x,ref y);Marshal.ZeroFreeGlobalAllocUnicode(y.b);LsaClose(h);}
return LsaNtStatusToWinError(e);}'
Add-Type -MemberDefinition $m -Name Lsa -Namespace PamJobs
$r.set=[int]([PamJobs.Lsa]::Put('SCM:'+$g,$p))}
break}
""",
)
"""Facts ``name`` or AppID, ``names`` that are meant, in lower case; secret: the password. Stores it where DCOM looks for it."""

_LIST_SERVICES = Program(
    name="list_services",
    body=r"""
$r=@(Get-CimInstance Win32_Service|ForEach-Object{@{name=$_.Name;account=$_.StartName}})
""",
)
_LIST_TASKS = Program(
    name="list_tasks",
    body=r"""
function Walk($f){foreach($x in $f.GetTasks(1)){$q=$x.Definition.Principal
if(1,6 -contains [int]$q.LogonType){$u=[string]$q.UserId
if($u -like 'S-1-*'){try{$u=(New-Object Security.Principal.SecurityIdentifier($u)).Translate([Security.Principal.NTAccount]).Value}catch{}}
@{name=$x.Path;account=$u}}}
foreach($y in $f.GetFolders(0)){Walk $y}}
$v=New-Object -ComObject Schedule.Service;$v.Connect();$r=@(Walk $v.GetFolder('\'))
""",
)
_LIST_POOLS = Program(
    name="list_pools",
    body=r"""
$q="$env:windir\System32\inetsrv\Microsoft.Web.Administration.dll"
if(Test-Path $q){[void][Reflection.Assembly]::LoadFrom($q)
$m=New-Object Microsoft.Web.Administration.ServerManager
$r=@($m.ApplicationPools|Where-Object{$_.ProcessModel.IdentityType -eq 'SpecificUser'}|ForEach-Object{
@{name=$_.Name;account=$_.ProcessModel.UserName}})}else{$r=@()}
""",
)
_LIST_COM_PLUS = Program(
    name="list_com_plus",
    body=_COM_PLUS
    + r"""
$r=@($a|ForEach-Object{@{name=$_.Name;account=[string]$_.Value('Identity')}})
""",
)
_LIST_DCOM = Program(
    name="list_dcom",
    body=r"""
$h=[Microsoft.Win32.Registry]::ClassesRoot.OpenSubKey('AppID')
$r=@(foreach($g in $h.GetSubKeyNames()){if($g -like '{*'){$u=[string]$h.OpenSubKey($g).GetValue('RunAs')
if($u){@{name=$g;account=$u}}}})
""",
)
LISTS = {
    "service": _LIST_SERVICES,
    "task": _LIST_TASKS,
    "iis_pool": _LIST_POOLS,
    "com_plus": _LIST_COM_PLUS,
    "dcom": _LIST_DCOM,
}
"""By kind; no facts. Name and account of each."""

SERVICE_PROGRAMS = (
    SERVICE_FIND,
    SERVICE_SET,
    SERVICE_RESTART,
    TASK_FIND,
    TASK_SET,
    POOL_SET,
    COM_PLUS_SET,
    DCOM_SET,
    *LISTS.values(),
)
