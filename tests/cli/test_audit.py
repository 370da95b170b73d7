"""`sluice audit` against a whole gateway."""

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_list_export_and_verify(sluice: Run, tmp_path: Path) -> None:
    sluice("token", "create", "ci")
    sluice("token", "revoke", "ci")
    rows = json.loads(sluice("audit", "list", "--since", "1h", "--json").stdout)
    assert [(row["action"], row["origin"]) for row in rows][:2] == [("token.revoke", "cli"), ("token.create", "cli")]
    assert "token.create" in sluice("audit", "list", "--action", "token.create").stdout
    number, head = sluice("audit", "head").stdout.split()
    verified = json.loads(sluice("audit", "verify", "--expect", head, "--json").stdout)
    assert verified == {"whole": True, "id": int(number), "hash": head}
    file = tmp_path / "audit.jsonl"
    sluice("audit", "export", "-o", str(file))
    assert head in sluice("audit", "verify", "--file", str(file)).stdout


def test_a_broken_export_is_told_by_its_first_broken_row(sluice: Run, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        sluice("token", "create", name)
    file = tmp_path / "audit.jsonl"
    sluice("audit", "export", "-o", str(file))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace("token.create", "token.revoke"), *lines[2:]]))
    told = sluice("audit", "verify", "--file", str(file), "--json", code=1)
    error = json.loads(told.stderr)["error"]
    assert (error["code"], error["row"]) == ("audit_broken", 2)
    sluice("audit", "verify", "--expect", "f" * 64, code=1)
