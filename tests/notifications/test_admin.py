from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from controlplane.notifications import api, delivering
from controlplane.notifications.models import Channel, Delivery

from .receiver import Receiver

MakeChannel = Callable[..., Channel]


def form(**fields: str) -> dict[str, str]:
    return {
        "name": "ops",
        "kind": "webhook",
        "address": "",
        "secret": "",
        "least_severity": "20",
        "active": "on",
    } | fields


def test_an_operator_adds_a_channel_and_never_sees_its_credentials_again(admin_client: Client, hook: Receiver) -> None:
    answer = admin_client.post(
        reverse("admin:notifications_channel_add"), form(address=hook.url, secret="s3cret-of-the-hook")
    )
    assert answer.status_code == 302
    row = Channel.objects.get()
    assert (row.address, row.secret) == (hook.url, "s3cret-of-the-hook")
    page = admin_client.get(reverse("admin:notifications_channel_change", args=[row.pk])).content.decode()
    assert "t0ken-in-the-path" not in page
    assert "s3cret" not in page
    assert "Set. Leave empty to keep it." in page


def test_saving_a_channel_with_empty_credentials_keeps_them(
    admin_client: Client, channel: MakeChannel, hook: Receiver
) -> None:
    row = channel()
    admin_client.post(reverse("admin:notifications_channel_change", args=[row.pk]), form(name="renamed"))
    row.refresh_from_db()
    assert (row.name, row.address, row.secret) == ("renamed", hook.url, "s3cret-of-the-hook")


def test_a_channel_without_an_address_is_refused_with_what_to_do(admin_client: Client) -> None:
    page = admin_client.post(reverse("admin:notifications_channel_add"), form()).content.decode()
    assert "An address is needed." in page
    assert Channel.objects.count() == 0


def test_the_test_button_sends_now_and_says_how_it_went(
    admin_client: Client, channel: MakeChannel, hook: Receiver
) -> None:
    row = channel()
    url = reverse("admin:notifications_channel_send_test", args=[row.pk])
    admin_client.post(url, {"_form_submitted": "1"})
    page = admin_client.get(reverse("admin:notifications_channel_changelist")).content.decode()
    assert "ops took the test message." in page
    [body] = hook.bodies
    assert body["kind"] == "test"

    hook.will_answer(500)
    admin_client.post(url, {"_form_submitted": "1"})
    page = admin_client.get(reverse("admin:notifications_channel_changelist")).content.decode()
    assert "The webhook answered 500." in page


def test_only_who_may_test_sends_a_test(
    client: Client,
    channel: MakeChannel,
    hook: Receiver,
    django_user_model,  # type: ignore[no-untyped-def]
) -> None:
    row = channel()
    viewer = django_user_model.objects.create_user("viewer", password="x", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_channel"))
    client.force_login(viewer)
    answer = client.post(reverse("admin:notifications_channel_send_test", args=[row.pk]), {"_form_submitted": "1"})
    assert answer.status_code == 403
    assert hook.received == []


def test_the_messages_page_shows_where_each_went_in_a_fixed_number_of_queries(
    admin_client: Client,
    channel: MakeChannel,
    django_assert_num_queries,  # type: ignore[no-untyped-def]
) -> None:
    channel()
    for number in range(5):
        api.notify("toy", key=f"k{number}", title=f"Message {number}")
    delivering.deliver_due()
    with django_assert_num_queries(6):
        page = admin_client.get(reverse("admin:notifications_message_changelist")).content.decode()
    assert page.count("1 of 1") == 5


def test_a_message_can_only_be_looked_at(admin_client: Client, channel: MakeChannel) -> None:
    channel()
    api.notify("toy", key="k", title="Something")
    row = Delivery.objects.get().message
    assert admin_client.get(reverse("admin:notifications_message_change", args=[row.pk])).status_code == 200
    assert admin_client.post(reverse("admin:notifications_message_delete", args=[row.pk])).status_code == 403


@pytest.mark.django_db
def test_an_empty_list_of_channels_says_what_channels_are_for(admin_client: Client) -> None:
    page = admin_client.get(reverse("admin:notifications_channel_changelist")).content.decode()
    assert "nobody is told when a backup fails" in page
