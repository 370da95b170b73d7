"""Settings that are wrong are told without what they hold that is secret."""

import pytest

from gateway.errors import SettingsInvalid
from gateway.settings import load

SECRET = "tops3cret"


@pytest.mark.parametrize(
    "environ",
    [
        {"SLUICE_DATABASE_URL__X": f"postgresql://sluice:{SECRET}@db/sluice"},
        {"SLUICE_SERVE": f"postgresql://sluice:{SECRET}@db/sluice"},
        {"SLUICE_CLUSTERS__HPC__SSH_PORT": f"https://me:{SECRET}@login"},
    ],
)
def test_no_error_repeats_an_address_with_a_password(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsInvalid) as told:
        load(environ={"HOME": "/nonexistent", "PATH": "", **environ})
    assert SECRET not in str(told.value)
    assert SECRET not in repr(told.value.details)
