"""What runs as an account, on every connector that updates it."""

from __future__ import annotations

import pytest

from connectors.base import Dependant, DependantState, RunAs
from pam_jobs.errors import LeaseLost
from tests.contract.test_connectors import bench  # noqa: F401 - the fixture

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]


@pytest.mark.parametrize("bench", ["fake", "winrm-admin", "windows-ssh-admin"], indirect=True)
def test_what_runs_as_an_account_gets_its_password_and_is_restarted(bench):  # noqa: F811
    account, old = bench.new_account()
    name = bench.make_service(account.login, old.password.reveal())
    stranger = bench.make_service(f"{account.login}x", "not ours")
    candidate = bench.candidate(account)
    run_as = RunAs(names=(f".\\{account.login}", account.login), password=candidate.password)
    fences = []

    def stop():
        raise LeaseLost

    with bench.open(old) as session:
        session.change(account, candidate, lambda: None)
        with pytest.raises(LeaseLost):
            session.update_dependant(Dependant(kind="service", name=name), run_as, stop)
        assert bench.service(name) == (old.password.reveal(), True, 0)
        outcome = session.update_dependant(Dependant(kind="service", name=name), run_as, lambda: fences.append(1))
        assert outcome.state is DependantState.RESTARTED
        assert bench.service(name) == (candidate.password.reveal(), True, 1)
        again = session.update_dependant(Dependant(kind="service", name=name), run_as, lambda: fences.append(1))
        assert again.state in {DependantState.RESTARTED, DependantState.ALREADY}
        other = session.update_dependant(Dependant(kind="service", name=stranger), run_as, lambda: fences.append(1))
        assert other.state is DependantState.OTHER_ACCOUNT
        assert bench.service(stranger) == ("not ours", True, 0)
        seen = {each.name: each.account for each in session.dependants() if isinstance(each, Dependant)}
        assert run_as.is_meant(seen[name])
        assert not run_as.is_meant(seen[stranger])
    assert bench.service(name)[:2] == (candidate.password.reveal(), True)
    assert len(fences) <= 3
    for secret in (old.password, candidate.password):
        assert secret.reveal() not in bench.log_text()
