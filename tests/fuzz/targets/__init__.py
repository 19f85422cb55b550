"""The registry of all fuzz targets: one place, which `tests/fuzz/test_fuzz.py` compares with the parsers of kvseal."""

from __future__ import annotations

from itertools import chain

from tests.fuzz.targets import files, legacy, sealed, secret, stored, text, vault

TARGETS = {
    target.name: target
    for target in chain.from_iterable(
        module.TARGETS for module in (sealed, vault, secret, files, legacy, stored, text)
    )
}

ELSEWHERE = {
    "cli.commands.Place.load": "imports a command of vaultctl, and parses nothing",
    "cli.migration.migrate.FernetKdf.convert": "is parse_kdf, which has a target, for an option",
    "drivers.mongodb.driver.from_url": "is Address.of_url, which has a target, and a question to the server",
    "drivers.postgresql.pools.Pools.reads_text": "asks how the store reads, and parses nothing",
    "drivers.postgresql.pools.OwnPools.reads_text": "asks how the store reads, and parses nothing",
    "drivers.postgresql.pools.BorrowedPool.reads_text": "asks how the store reads, and parses nothing",
    "drivers.redis.shares.KeyShare.parse": "reads bounds in a sealed head; its own test gives it any text",
    "records.reading.Reader.read_many": "is Reader.read for several",
    "drivers.s3.driver.from_url": "is parse_url, which has a target, and a question to the service",
    "secrets.system_keyring.read_keyring": "returns what the keyring says, and parses nothing",
    "vault.session.OpenVault.read_current": "is MetaStore.load and a comparison of revisions",
    "vault.store_clock.read_clocks": "asks the clocks of the store and of this host, and parses nothing",
    "vault.vault.Vault.read_legacy_with": "changes the policy, and parses nothing",
}
"""What is named like a parser and has no target: why."""
