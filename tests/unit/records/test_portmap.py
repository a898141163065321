from __future__ import annotations

import pytest

from pam_jobs.errors import InvalidInput
from pam_jobs.records.portmap import DATABASE_TYPES, PortMapping, protocol_for

pytestmark = pytest.mark.unit

MAPPING = PortMapping.parse("2222=ssh\n\n 3307 = MySQL \n32636=ldaps\r\n14330=sql-server\n25432=postgres\n3308=mariadb")


def test_one_line_maps_one_port():
    assert dict(MAPPING.labels) == {
        2222: "ssh",
        3307: "mysql",
        32636: "ldaps",
        14330: "mssql",
        25432: "postgresql",
        3308: "mariadb",
    }
    assert PortMapping.parse(MAPPING.to_text()) == MAPPING


@pytest.mark.parametrize("text", [None, "", "\n \n"])
def test_no_lines_map_nothing(text: str | None):
    assert PortMapping.parse(text) == PortMapping()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ssh", "'ssh' is not a port mapping"),
        ("ssh=22", "'ssh=22' is not a port mapping"),
        ("2222:ssh", "is not a port mapping"),
        ("2222=", "unknown label ''"),
        ("2222=gopher", "port 2222 the unknown label 'gopher'"),
        ("0=ssh", "0 in the port mapping is not a port"),
        ("65536=ssh", "65536 in the port mapping is not a port"),
        ("222222222222=ssh", "is not a port"),
        ("-22=ssh", "is not a port mapping"),
        ("2222=ssh\n2222=winrm", "names port 2222 twice (ssh and winrm)"),
        ("2222=ssh\n2222=ssh", "names port 2222 twice"),
        ("2222=ssh 3390=rdp", "unknown label 'ssh 3390=rdp'"),
    ],
)
def test_a_line_that_cannot_be_kept_is_refused_with_a_remedy(text: str, sentence: str):
    with pytest.raises(InvalidInput) as refused:
        PortMapping.parse(text)
    assert sentence in refused.value.message
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("port", "record_type", "database_type", "label"),
    [
        (22, "pamMachine", None, "ssh"),
        (22, None, None, "ssh"),
        (2222, "pamMachine", None, "ssh"),
        (5985, "pamMachine", None, "winrm"),
        (5986, "pamMachine", "", "winrm"),
        (636, "pamDirectory", None, "ldaps"),
        (389, "pamDirectory", None, "ldap"),
        (32636, "pamDirectory", None, "ldaps"),
        (5432, "pamDatabase", "postgresql", "postgresql"),
        (5432, "pamDatabase", "postgresql-flexible", "postgresql"),
        (5432, "pamDatabase", None, "postgresql"),
        (25432, "pamDatabase", "PostgreSQL", "postgresql"),
        (3306, "pamDatabase", "mysql", "mysql"),
        (3306, "pamDatabase", "mariadb", "mariadb"),
        (3306, "pamDatabase", None, "mysql"),
        (3307, "pamDatabase", "mariadb-flexible", "mysql"),
        (3308, "pamDatabase", "mysql", "mariadb"),
        (14330, "pamDatabase", "mssql", "mssql"),
        (1433, None, "mssql", "mssql"),
        (1521, "pamDatabase", "oracle", "oracle"),
        (27017, "pamDatabase", "mongodb", "mongodb"),
        (636, "pamDomainConfiguration", None, "ldaps"),
    ],
)
def test_the_port_decides_the_protocol(port: int, record_type: str | None, database_type: str | None, label: str):
    assert protocol_for(port, MAPPING, record_type, database_type) == label


def test_a_mapping_goes_before_the_standard_ports():
    assert protocol_for(22, PortMapping.parse("22=winrm"), "pamMachine") == "winrm"
    assert protocol_for(22) == "ssh"


@pytest.mark.parametrize(
    ("port", "record_type", "database_type", "sentence", "line"),
    [
        (2022, "pamMachine", None, "port 2022 is not mapped", "2022=ssh"),
        (2022, None, None, "port 2022 is not mapped", "2022=ssh"),
        (2636, "pamDirectory", None, "port 2636 is not mapped", "2636=ldaps"),
        (5433, "pamDatabase", None, "port 5433 is not mapped", "5433=postgresql"),
        (3310, "pamDatabase", "mariadb-flexible", "port 3310 is not mapped", "3310=mariadb"),
        (5432, "pamDatabase", "mysql", "speaks postgresql but the record's databaseType is mysql", "5432=mysql"),
        (22, "pamDatabase", None, "port 22 speaks ssh, which a pamDatabase cannot have", "22=postgresql"),
        (5432, "pamMachine", None, "port 5432 speaks postgresql, which a pamMachine cannot have", "5432=ssh"),
        (5432, "pamMachine", "mysql", "which a pamMachine cannot have", "5432=ssh"),
    ],
)
def test_a_port_nobody_mapped_or_that_contradicts_the_record_names_the_line_to_add(
    port: int, record_type: str | None, database_type: str | None, sentence: str, line: str
):
    with pytest.raises(InvalidInput) as refused:
        protocol_for(port, MAPPING, record_type, database_type)
    assert sentence in refused.value.message
    assert line in (refused.value.remedy or "")


def test_a_resource_without_a_port_is_refused():
    with pytest.raises(InvalidInput, match="no port"):
        protocol_for(None)


def test_every_database_type_has_a_standard_port():
    ports = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521, "mongodb": 27017, "redis": 6379,
             "rabbitmq": 15672}  # fmt: skip
    for kind in DATABASE_TYPES:
        family = kind.removesuffix("-flexible")
        assert protocol_for(ports[family], None, "pamDatabase", kind) == family
