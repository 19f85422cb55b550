"""The ways in: added only when they open, removed only while another lasts, refused when they have expired."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import compress
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.memory import MemoryStore
from tests.fakes import MetaClock, dump, flipped, raw_meta
from tests.turns import interleaved
from tests.wrapping import wrapped

from kvseal import Argon2idParams, Secret, Vault
from kvseal.errors import (
    Conflict,
    DamagedSlotError,
    KDFParametersError,
    LastSlotError,
    MistypedSecretError,
    SecretReferenceError,
    SlotExistsError,
    SlotNotFoundError,
    TamperedMetaError,
    VaultError,
    VaultLockedError,
    WrongSecretError,
)
from kvseal.keys.keyslot import cost_for
from kvseal.keys.meta import MAX_SLOTS
from kvseal.secrets.defaults import default_key_file
from kvseal.secrets.secret import generate, generate_recovery_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kvseal.vault.status import SlotStatus

AnyStore = MemoryStore | DiskStore

OTHER, THIRD = Secret(b"another secret"), Secret(b"a third secret")
CHEAP = Argon2idParams(time_cost=1, memory_cost=8, parallelism=1)
DAY = timedelta(days=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MetaClock:
    """Return the clock by which slots expire."""
    return MetaClock(monkeypatch)


@pytest.fixture
async def vault(store: MemoryStore, secret: Secret) -> Vault:
    """Return a vault with one record."""
    vault = await Vault.create(store, secret=secret, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})
    return vault


async def opens(store: Any, secret: Secret) -> bool:
    """Whether *secret* opens the vault in *store*, and with it the record."""
    try:
        vault = await Vault.open(store, secret=secret)
    except WrongSecretError:
        return False
    assert {"v": 1} == await wrapped(vault).get("k")
    return True


def labels(vault: Vault) -> list[str]:
    """Return the labels of all slots."""
    return [slot.label for slot in vault.slots.list()]


async def test_a_slot_is_another_way_in(any_store: AnyStore, secret: Secret) -> None:
    """Both secrets open, each says through which slot, and removing one leaves the other."""
    vault = await Vault.create(any_store, secret=secret, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})

    added = await vault.slots.add(OTHER, label="laptop", kdf=CHEAP)

    assert ("laptop", False, None, 2) == (
        added.label,
        added.opened,
        added.expires_at,
        vault.status().revision,
    )
    assert [True, True] == [await opens(any_store, secret), await opens(any_store, OTHER)]
    assert added.id == (await vault.slots.verify(OTHER)).id
    await vault.slots.remove("primary")
    assert [False, True] == [await opens(any_store, secret), await opens(any_store, OTHER)]
    assert {"v": 1} == await wrapped(vault).get("k")


async def test_status_says_which_slot_opened_and_when(
    vault: Vault, store: MemoryStore, clock: MetaClock
) -> None:
    """The slot that this process came in through has the time of it, no other has one, nothing is stored."""
    await vault.slots.add(OTHER, label="laptop", kdf=CHEAP)
    clock.advance(hours=5)
    before = dump(store)

    now = (await Vault.open(store, secret=OTHER)).status()

    assert [("primary", False, None), ("laptop", True, "2030-03-17T22:46:40Z")] == [
        (slot.label, slot.opened, slot.opened_at) for slot in now.slots
    ]
    assert before == dump(store)


async def test_a_label_names_one_slot(vault: Vault, store: MemoryStore) -> None:
    """A label that is taken is refused, because a rotation would replace both slots."""
    before = dump(store)

    with pytest.raises(SlotExistsError, match="primary"):
        await vault.slots.add(OTHER, label="primary", kdf=CHEAP)

    assert before == dump(store)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        pytest.param({"secret": "hunter2"}, SecretReferenceError, id="a-bare-passphrase"),
        pytest.param({"label": "two\nlines"}, VaultError, id="a-label-of-two-lines"),
        pytest.param({"label": ""}, VaultError, id="no-label"),
        pytest.param({"expires_in": timedelta(0)}, VaultError, id="expired-already"),
        pytest.param({"expires_in": timedelta(seconds=0.5)}, VaultError, id="expired-within-the-second"),
        pytest.param({"kdf": Argon2idParams(1, 2**31, 1)}, KDFParametersError, id="above-the-ceiling"),
    ],
)
async def test_refused_slots_change_nothing(
    asked: dict[str, Any], error: type[Exception], vault: Vault, store: MemoryStore, clock: MetaClock
) -> None:
    """A slot that cannot work is refused before anything is written."""
    before = dump(store)

    with pytest.raises(error, match="would have expired" if "expires_in" in asked else None):
        await vault.slots.add(**{"secret": OTHER, "label": "laptop", "kdf": CHEAP, **asked})

    assert before == dump(store)


async def test_a_dry_run_writes_nothing(vault: Vault, store: MemoryStore) -> None:
    """It checks what the change would check, and leaves the store as it is."""
    before = dump(store)

    added = await vault.slots.add(OTHER, label="laptop", kdf=CHEAP, dry_run=True)

    assert ("laptop", ["primary"], before) == (added.label, labels(vault), dump(store))
    with pytest.raises(LastSlotError):
        await vault.slots.remove("primary", dry_run=True)
    with pytest.raises(SlotNotFoundError):
        await vault.slots.remove("laptop", dry_run=True)


async def test_a_new_slot_is_opened_before_it_is_written(
    vault: Vault, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that would not open from the bytes to be stored never reaches the store."""
    before = dump(store)

    def wrong(secret: bytes, salt: bytes, params: Argon2idParams, **_: Any) -> bytes:
        derived.append(salt)
        return bytes([len(derived)]) * 32

    derived: list[bytes] = []
    monkeypatch.setattr("kvseal.keys.keyslot.argon2id", wrong)
    with pytest.raises(WrongSecretError):
        await vault.slots.add(OTHER, label="laptop", kdf=CHEAP)

    assert before == dump(store)
    assert 2 == len(derived)


async def test_no_more_than_32(vault: Vault, store: MemoryStore, clock: MetaClock) -> None:
    """There is room for 32, and an expired one makes room."""
    await vault.slots.add(OTHER, label="short", kdf=CHEAP, expires_in=DAY)
    for number in range(MAX_SLOTS - 2):
        await vault.slots.add(Secret(b"secret %d" % number), label=str(number), kdf=CHEAP)

    with pytest.raises(VaultError, match="has 32 keyslots, the maximum"):
        await vault.slots.add(THIRD, label="one too many", kdf=CHEAP)
    clock.advance(days=2)
    await vault.slots.add(THIRD, label="one too many", kdf=CHEAP)

    assert MAX_SLOTS == len(vault.slots.list())
    assert await opens(store, Secret(b"secret 29"))
    assert await opens(store, THIRD)


async def test_expired_slots_open_nothing_and_go(vault: Vault, store: MemoryStore, clock: MetaClock) -> None:
    """Until its time a slot opens, from then on it is refused, and the next change of any kind drops it."""
    await vault.slots.add(OTHER, label="guest", kdf=CHEAP, expires_in=DAY)

    clock.advance(hours=23, minutes=59)
    assert await opens(store, OTHER)
    clock.advance(minutes=1)
    assert not await opens(store, OTHER)
    assert 2 == len((await raw_meta(store))["slots"])
    await vault.rotate_dek()
    assert 1 == len((await raw_meta(store))["slots"])


CHANGES: dict[str, Callable[[Vault], Awaitable[object]]] = {
    "add a slot": lambda vault: vault.slots.add(THIRD, label="third", kdf=CHEAP),
    "remove a slot": lambda vault: vault.slots.remove("laptop"),
    "rotate": lambda vault: vault.rotate(new_secret=THIRD),
    "rotate the DEK": lambda vault: vault.rotate_dek(),
    "read legacy": lambda vault: vault.read_legacy_with([], plaintext=True),
    "end legacy": lambda vault: vault.end_legacy_reads(),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_every_change_drops_expired_slots(
    name: str, vault: Vault, store: MemoryStore, clock: MetaClock
) -> None:
    """Whatever is changed, what has expired goes with it."""
    await vault.slots.add(Secret(b"laptop"), label="laptop", kdf=CHEAP)
    await vault.slots.add(OTHER, label="guest", kdf=CHEAP, expires_in=DAY)
    clock.advance(days=1)

    await CHANGES[name](vault)

    assert "guest" not in [slot["label"] for slot in (await raw_meta(store))["slots"]]


async def test_the_last_slot_that_lasts_stays(vault: Vault, store: MemoryStore, clock: MetaClock) -> None:
    """A slot that opens today and not next week does not count as a way in."""
    await vault.slots.add(OTHER, label="guest", kdf=CHEAP, expires_in=DAY)
    before = dump(store)

    with pytest.raises(LastSlotError, match="without an expiry"):
        await vault.slots.remove("primary")

    assert before == dump(store)


async def test_a_slot_is_named_by_id_or_label(vault: Vault, store: MemoryStore, clock: MetaClock) -> None:
    """A name that leads to no slot, or to several, removes none."""
    await vault.rotate(new_secret=OTHER, keep_old_for=DAY)
    old, _ = vault.slots.list()

    with pytest.raises(SlotNotFoundError, match="nobody"):
        await vault.slots.remove("nobody")
    with pytest.raises(SlotNotFoundError, match=f"2 slots have the label primary: {old.id}"):
        await vault.slots.remove("primary")
    await vault.slots.remove(old.id)

    assert [True] == [slot.opened for slot in vault.slots.list()]


async def test_kept_slots_last(vault: Vault, store: MemoryStore, clock: MetaClock) -> None:
    """A slot that was added for a time can be let last while it opens, and not afterwards."""
    await vault.slots.add(OTHER, label="recovery", kdf=CHEAP, expires_in=DAY)
    kept = await vault.slots.keep("recovery")
    clock.advance(days=2)

    assert kept.expires_at is None
    assert await opens(store, OTHER)
    await vault.slots.add(THIRD, label="late", kdf=CHEAP, expires_in=DAY)
    clock.advance(days=2)
    with pytest.raises(SlotNotFoundError, match="late"):
        await vault.slots.keep("late")
    assert not await opens(store, THIRD)


async def test_a_recovery_key_lasts_once_its_owner_has_it(vault: Vault, store: MemoryStore) -> None:
    """The key is handed over while its slot still expires; confirmed, it lasts and opens."""
    handed: list[tuple[Secret, str | None]] = []

    async def hand_over(key: Secret, slot: SlotStatus) -> bool:
        handed.append((key, slot.expires_at))
        return await opens(store, key)

    lasting = await vault.slots.add_recovery(hand_over, kdf=CHEAP)
    ((key, ended_at),) = handed

    assert (None, "recovery") == (lasting.expires_at, lasting.label)
    assert ended_at is not None
    assert key.is_generated
    assert await opens(store, key)


async def test_a_recovery_key_that_is_not_confirmed_opens_nothing(vault: Vault, store: MemoryStore) -> None:
    """Where its owner does not have it, the slot goes, and the caller learns of it."""
    handed: list[Secret] = []

    async def refuse(key: Secret, _: SlotStatus) -> bool:
        handed.append(key)
        return False

    with pytest.raises(MistypedSecretError, match="its slot was removed"):
        await vault.slots.add_recovery(refuse, kdf=CHEAP)

    assert ["primary"] == labels(vault)
    assert not await opens(store, handed[0])


async def test_an_interrupted_recovery_key_makes_room(vault: Vault) -> None:
    """A call that is interrupted leaves a slot that expires, and the next call takes it away."""

    async def interrupt(key: Secret, slot: SlotStatus) -> bool:
        raise asyncio.CancelledError

    async def confirm(key: Secret, slot: SlotStatus) -> bool:
        return True

    with pytest.raises(asyncio.CancelledError):
        await vault.slots.add_recovery(interrupt, kdf=CHEAP)
    assert [True, False] == [slot.expires_at is None for slot in vault.slots.list()]
    await vault.slots.add_recovery(confirm, kdf=CHEAP)

    assert [("primary", True), ("recovery", True)] == [
        (slot.label, slot.expires_at is None) for slot in vault.slots.list()
    ]


async def test_verify_looks_at_what_is_stored_now(vault: Vault, store: MemoryStore) -> None:
    """Another process' slot is found, a removed one is not, and a damaged one is called so."""
    other = await Vault.open(store, secret=Secret(b"correct horse battery staple"))
    await other.slots.add(OTHER, label="laptop", kdf=CHEAP)

    assert "laptop" == (await vault.slots.verify(OTHER)).label
    with pytest.raises(WrongSecretError):
        await vault.slots.verify(THIRD)
    await other.slots.remove("laptop")
    with pytest.raises(WrongSecretError):
        await vault.slots.verify(OTHER)


async def test_verify_believes_no_pasted_slot(vault: Vault, store: MemoryStore) -> None:
    """What no holder of the root key wrote is refused before a secret is tried."""
    await flipped(store, "slots", 0, "wrapped")

    with pytest.raises(TamperedMetaError):
        await vault.slots.verify(OTHER)
    with pytest.raises(DamagedSlotError):
        await Vault.open(store, secret=Secret(b"correct horse battery staple"))


async def test_a_locked_vault_changes_no_slot(vault: Vault) -> None:
    """Without the root key there is nothing to wrap."""
    await vault.lock()

    for change in (
        vault.slots.add(OTHER, label="laptop", kdf=CHEAP),
        vault.slots.remove("primary"),
        vault.slots.keep("primary"),
        vault.slots.verify(OTHER),
    ):
        with pytest.raises(VaultLockedError):
            await change


LIGHT, STRONG = (2, 19_456, 1), (3, 65_536, 4)


def cost(vault: Vault) -> tuple[int | None, int | None, int | None]:
    """Return the cost of the only slot."""
    (slot,) = vault.slots.list()
    return slot.t, slot.m, slot.p


@pytest.mark.exhaustive
async def test_a_vault_for_a_generated_secret_opens_lightly(store: MemoryStore) -> None:
    """Creation and rotation choose the cost by the secret: light for a generated one, strong for a password."""
    vault = await Vault.create(store, secret=generate())
    costs = [cost(vault)]
    for secret in (OTHER, generate(), THIRD):
        await vault.rotate(new_secret=secret)
        costs.append(cost(vault))

    assert [LIGHT, STRONG, LIGHT, STRONG] == costs


async def test_a_secret_that_is_generated_for_a_new_vault_opens_lightly(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none is named, and by `open_or_create` as a migration does it."""
    monkeypatch.delenv("KVSEAL_MASTER_KEY", raising=False)

    vault = await Vault.open_or_create(store)

    assert cost(vault) == LIGHT


async def test_a_secret_is_not_generated_for_nothing(store: MemoryStore) -> None:
    """A ceiling below even the light cost refuses before a secret is generated."""
    with pytest.raises(KDFParametersError):
        await Vault.create(store, memory_ceiling=8192)

    assert not default_key_file().exists()


async def test_a_chosen_cost_is_kept(store: MemoryStore) -> None:
    """Rotation to another kind of secret keeps a cost that is neither default."""
    vault = await Vault.create(store, secret=OTHER, kdf=CHEAP)
    await vault.rotate(new_secret=generate())

    assert (1, 8, 1) == cost(vault)


@pytest.mark.parametrize("make", [generate, generate_recovery_key])
async def test_the_cost_of_generated_secrets(
    make: Callable[[], Secret], vault: Vault, store: MemoryStore
) -> None:
    """256 random bits have the light cost, by the same Argon2id path, and truly open the vault."""
    generated = make()

    added = await vault.slots.add(generated, label="recovery")

    assert (2, 19_456, 1) == (added.t, added.m, added.p)
    assert await opens(store, generated)
    typed = Secret(generated.reveal().lower().replace(b"-", b" "))
    assert await opens(store, typed)


def test_costs() -> None:
    """What a person may have thought up has the full cost, and never inherits a light one."""
    light, full = Argon2idParams.OWASP_MINIMUM, Argon2idParams.RFC_9106_LOW_MEMORY
    generated = generate()

    assert [light, full] == [cost_for(generated), cost_for(OTHER)]
    assert [light, full] == [cost_for(generated, present=light), cost_for(OTHER, present=light)]
    assert [CHEAP, CHEAP] == [cost_for(generated, present=CHEAP), cost_for(OTHER, present=CHEAP)]


async def test_rotation_from_a_generated_secret_to_a_passphrase_raises_the_cost(
    vault: Vault, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The light cost goes with the secret that it was for."""
    monkeypatch.setattr(Argon2idParams, "OWASP_MINIMUM", CHEAP)
    monkeypatch.setattr(Argon2idParams, "RFC_9106_LOW_MEMORY", Argon2idParams(2, 16, 1))
    key = generate_recovery_key()
    await vault.slots.add(key, label="recovery")

    status = await (await Vault.open(store, secret=key)).rotate(new_secret=OTHER)

    assert [("primary", 1, 8), ("recovery", 2, 16)] == [(slot.label, slot.t, slot.m) for slot in status.slots]


CONCURRENT: dict[str, Callable[[Vault], Awaitable[object]]] = {
    "add": lambda vault: vault.slots.add(OTHER, label="laptop", kdf=CHEAP),
    "add another": lambda vault: vault.slots.add(THIRD, label="desktop", kdf=CHEAP),
    "remove one": lambda vault: vault.slots.remove("one"),
    "remove two": lambda vault: vault.slots.remove("two"),
    "rotate": lambda vault: vault.rotate(new_secret=THIRD),
}


@pytest.mark.exhaustive
@given(
    st.lists(st.sampled_from("ab"), min_size=8, max_size=8),
    st.tuples(st.sampled_from(sorted(CONCURRENT)), st.sampled_from(sorted(CONCURRENT))),
)
@example(list("abababab"), ("remove one", "remove two"))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_concurrent_changes_of_slots(schedule: list[str], names: tuple[str, str]) -> None:
    """Whatever the order of their store operations, each change happens whole or raises, and one slot lasts."""
    asyncio.run(concurrently(schedule, names))


async def concurrently(schedule: list[str], names: tuple[str, str]) -> None:
    """Run two changes of a vault with the slots one and two, in the order of *schedule*."""
    store, one = MemoryStore(), Secret(b"one")
    vault = await Vault.create(store, secret=one, kdf=CHEAP, label="one")
    await wrapped(vault).put("k", {"v": 1})
    await vault.slots.add(Secret(b"two"), label="two", kdf=CHEAP)
    refused = (Conflict, LastSlotError, SlotExistsError, SlotNotFoundError)

    done = await interleaved(store, one, schedule, [CONCURRENT[name] for name in names], refused=refused)

    won = list(compress(names, done))
    opening = [one, Secret(b"two"), OTHER, THIRD]
    can = [await opens(store, secret) for secret in opening]
    assert any(can[:2]) or can[3]
    assert ("add" in won) == can[2]
    assert not can[1] or "remove two" not in won
    assert not can[0] or ("remove one" not in won and "rotate" not in won)


@pytest.mark.exhaustive
@given(
    st.lists(st.sampled_from("ab"), min_size=12, max_size=12),
    st.tuples(st.sampled_from([None, DAY]), st.sampled_from([None, DAY])),
)
# Both add their slot before either of them replaces the old one.
@example(list("aaabbbaaabbb"), (DAY, DAY))
@example(list("aaabbbaaabbb"), (DAY, None))
@example(list("aaabbbbbbaaa"), (None, DAY))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_two_rotations_that_keep_one_wins(
    schedule: list[str], kept: tuple[timedelta | None, timedelta | None]
) -> None:
    """One wins and the other gets `Conflict`, whoever keeps the old slot: in the end one secret opens."""
    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(rotated_twice(schedule, kept, MetaClock(patch)))


async def rotated_twice(
    schedule: list[str], kept: tuple[timedelta | None, timedelta | None], clock: MetaClock
) -> None:
    """Run two rotations, operation by operation in the order of *schedule*."""
    store, old = MemoryStore(), Secret(b"the old secret")
    vault = await Vault.create(store, secret=old, kdf=CHEAP)
    await wrapped(vault).put("k", {"v": 1})
    rotations = [
        methodcaller("rotate", new_secret=new, keep_old_for=keep)
        for new, keep in zip((OTHER, THIRD), kept, strict=True)
    ]

    done = await interleaved(store, old, schedule, rotations)

    (won,) = compress((0, 1), done)
    assert [kept[won] is not None, True] == [
        await opens(store, secret) for secret in (old, (OTHER, THIRD)[won])
    ]
    clock.advance(days=1)
    assert [False, won == 0, won == 1] == [await opens(store, secret) for secret in (old, OTHER, THIRD)]


async def test_an_expired_slot_begins_no_rotation(vault: Vault, store: MemoryStore, clock: MetaClock) -> None:
    """A process that still holds its keys cannot make a way in that has ended last again."""
    await vault.slots.add(OTHER, label="guest", kdf=CHEAP, expires_in=DAY)
    guest = await Vault.open(store, secret=OTHER)
    clock.advance(days=1)
    before = dump(store)

    with pytest.raises(Conflict, match="has expired"):
        await guest.rotate(new_secret=THIRD)

    assert before == dump(store)
