from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from django.db import connection, transaction

from controlplane.kernel import clock
from controlplane.kernel.errors import Refused, Unavailable
from controlplane.notifications import api, delivering, sending
from controlplane.notifications.models import Channel, Delivery, DeliveryAttempt, Message

from .receiver import Receiver

MakeChannel = Callable[..., Channel]


def say(key: str = "toy:1", **fields: str) -> bool:
    values = {"title": "The night failed", "body": "disk full", **fields}
    return api.notify("toy", key=key, **values)  # type: ignore[arg-type]


def test_a_message_reaches_the_webhook_once_signed_and_with_its_key(channel: MakeChannel, hook: Receiver) -> None:
    ops = channel()
    assert say(link="/admin/backups/backuprecord/1/change/")
    assert delivering.deliver_due() == (1, 0)

    [(headers, body)] = hook.received
    assert hook.bodies[0] | {"created_at": ""} == {
        "key": "toy:1",
        "kind": "toy",
        "severity": "error",
        "title": "The night failed",
        "body": "disk full",
        "link": "/admin/backups/backuprecord/1/change/",
        "created_at": "",
    }
    assert headers["Idempotency-Key"] == "toy:1"
    assert headers["X-Zantara-Signature"] == sending.signature(ops.secret, int(headers["X-Zantara-Timestamp"]), body)
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.lease_owner) == ("sent", 1, "")
    assert delivering.deliver_due() == (0, 0)
    assert len(hook.received) == 1


def test_the_same_key_is_the_same_message_however_often_it_is_said(channel: MakeChannel, hook: Receiver) -> None:
    channel()
    assert [say(), say(), say("toy:2")] == [True, False, True]
    delivering.deliver_due()
    assert sorted(body["key"] for body in hook.bodies) == ["toy:1", "toy:2"]


def test_a_message_of_a_rolled_back_transaction_was_never_said(channel: MakeChannel, hook: Receiver) -> None:
    channel()
    with transaction.atomic():
        say()
        transaction.set_rollback(True)
    assert delivering.deliver_due() == (0, 0)
    assert (Message.objects.count(), hook.received) == (0, [])


def test_a_failed_delivery_is_tried_again_later_and_each_try_is_in_the_log(
    channel: MakeChannel, hook: Receiver
) -> None:
    channel()
    hook.will_answer(500, 503)
    say()
    assert delivering.deliver_due() == (0, 1)
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, delivery.last_error) == ("pending", 1, "The webhook answered 500.")
    assert delivering.deliver_due() == (0, 0)  # not due yet

    with time_machine.travel(clock.now() + timedelta(seconds=13), tick=True):
        assert delivering.deliver_due() == (0, 1)
    with time_machine.travel(clock.now() + timedelta(seconds=60), tick=True):
        assert delivering.deliver_due() == (1, 0)
    assert list(DeliveryAttempt.objects.values_list("delivered", "error")) == [
        (False, "The webhook answered 500."),
        (False, "The webhook answered 503."),
        (True, ""),
    ]
    assert len({body["key"] for body in hook.bodies}) == 1


def test_one_dead_channel_does_not_keep_the_others_from_hearing(channel: MakeChannel, hook: Receiver) -> None:
    channel(name="dead", address="http://127.0.0.1:9/nobody")
    channel(name="alive")
    say()
    assert delivering.deliver_due() == (1, 1)
    assert {d.channel.name: d.state for d in Delivery.objects.all()} == {"dead": "pending", "alive": "sent"}


def test_a_redirect_is_a_failure_and_is_not_followed(channel: MakeChannel, hook: Receiver) -> None:
    channel()
    hook.will_answer(302)
    say()
    assert delivering.deliver_due() == (0, 1)
    assert len(hook.received) == 1


def test_after_the_last_try_it_is_given_up_and_can_be_tried_again_by_hand(channel: MakeChannel, hook: Receiver) -> None:
    channel()
    hook.will_answer(500)
    say()
    Delivery._base_manager.update(attempts=28)
    assert delivering.deliver_due() == (0, 1)
    delivery = Delivery.objects.get()
    assert (delivery.state, [e.to_state for e in delivery.events.all()]) == ("given_up", ["given_up"])
    delivering.retry(delivery, actor="alice")
    assert delivering.deliver_due() == (1, 0)
    with pytest.raises(Refused, match="Only a delivery that was given up"):
        delivering.retry(Delivery.objects.get(), actor="alice")


def test_a_channel_gets_only_the_kinds_and_severities_that_it_wants(channel: MakeChannel, hook: Receiver) -> None:
    channel(name="errors only", least_severity=30)
    channel(name="tests only", kinds=["test"])
    channel(name="off", active=False)
    say("a", severity="warning")
    say("b", severity="error")
    assert [(d.message.key, d.channel.name) for d in Delivery.objects.all()] == [("b", "errors only")]


def test_secrets_are_masked_before_a_message_is_stored(channel: MakeChannel) -> None:
    say(body="could not reach postgres://app:hunter2hunter2@db/main with password=hunter2hunter2")
    assert "hunter2" not in Message.objects.get().body


def test_an_unknown_kind_is_a_mistake_of_the_caller_and_nothing_is_written(db: None) -> None:
    with pytest.raises(Exception, match="no kind of message named"):
        api.notify("typo", key="x", title="x")
    assert Message.objects.count() == 0


def test_credentials_of_a_channel_are_encrypted_in_the_database_and_absent_from_its_history(
    channel: MakeChannel, hook: Receiver
) -> None:
    channel()
    with connection.cursor() as cursor:
        cursor.execute("SELECT address, secret FROM notifications_channel")
        [(address, secret)] = cursor.fetchall()
        cursor.execute("SELECT * FROM notifications_historicalchannel")
        history = str(cursor.fetchall())
    assert address.startswith("fernet:")
    assert secret.startswith("fernet:")
    assert "t0ken-in-the-path" not in address + history
    assert "s3cret" not in secret + history
    assert Channel.objects.get().address == hook.url


def test_a_service_of_apprise_takes_the_message_too(channel: MakeChannel, hook: Receiver) -> None:
    channel(kind="apprise", address=hook.url.replace("http://", "json://"))
    say()
    assert delivering.deliver_due() == (1, 0)
    [body] = hook.bodies
    assert (body["title"], body["message"], body["type"]) == ("The night failed", "disk full", "failure")


def test_what_apprise_says_of_a_failure_holds_no_part_of_the_address(channel: MakeChannel, hook: Receiver) -> None:
    ops = channel(kind="apprise", address=hook.url.replace("http://", "json://"))
    hook.will_answer(500)
    with pytest.raises(Unavailable) as caught:
        delivering.send_test(ops, actor="alice")
    assert "t0ken" not in str(caught.value)
    assert len(hook.received) == 1


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("webhook", "ftp://x"),
        ("webhook", "https:///path"),
        ("webhook", "example.org"),
        ("apprise", "no-such-service://x"),
    ],
)
def test_an_address_that_can_never_work_is_refused_without_being_repeated(kind: str, address: str) -> None:
    with pytest.raises(Refused) as refused:
        sending.check_address(kind, address)
    assert address not in str(refused.value)


def test_old_messages_are_forgotten_with_their_log_but_not_those_on_their_way(
    channel: MakeChannel, hook: Receiver
) -> None:
    channel()
    with time_machine.travel(clock.now() - timedelta(days=91), tick=True):
        say("old")
        delivering.deliver_due()
        say("stuck")
    say("new")
    assert delivering.forget_old() == 4  # the message, its delivery, its event, its try
    assert sorted(Message.objects.values_list("key", flat=True)) == ["new", "stuck"]


SENDER = """
    import os, django
    django.setup()
    from controlplane.notifications import delivering, sending
    real = sending.send_webhook
    def send_and_die(*args, **kwargs):
        real(*args, **kwargs)
        os.kill(os.getpid(), 9)
    sending.send_webhook = send_and_die
    delivering.deliver_due()
"""


@pytest.mark.faults
@pytest.mark.django_db(transaction=True)
def test_a_worker_that_dies_after_sending_leads_to_a_second_delivery_of_one_key(hook: Receiver) -> None:
    Channel(name="ops", address=hook.url).save()
    say()
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": "controlplane.settings"}
    environ |= database_of_the_test()
    dead = subprocess.run([sys.executable, "-c", textwrap.dedent(SENDER)], env=environ, check=False, timeout=60)
    assert dead.returncode == -signal.SIGKILL
    assert len(hook.received) == 1  # the fault fired after the receiver had it
    assert delivering.deliver_due() == (0, 0)  # the dead worker's lease still stands
    with time_machine.travel(clock.now() + timedelta(seconds=61), tick=True):
        assert delivering.deliver_due() == (1, 0)
    assert [body["key"] for body in hook.bodies] == ["toy:1", "toy:1"]


def database_of_the_test() -> dict[str, str]:
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return {"ZANTARA_DATABASE_URL": f"sqlite:///{name}"}
    given = connection.settings_dict
    return {"ZANTARA_DATABASE_URL": f"postgres://{given['USER']}@{given['HOST'].replace('/', '%2f')}/{name}"}
