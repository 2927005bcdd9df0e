"""The recipe's own tests, which it says that pytest runs."""

from examples.add_a_task import (
    test_a_mail_server_that_is_down_for_a_moment_is_tried_again,
    test_an_unknown_address_ends_as_a_dead_letter_at_once_and_does_not_show_there,
    test_two_jobs_for_one_invoice_send_one_mail,
)

__all__ = [
    "test_a_mail_server_that_is_down_for_a_moment_is_tried_again",
    "test_an_unknown_address_ends_as_a_dead_letter_at_once_and_does_not_show_there",
    "test_two_jobs_for_one_invoice_send_one_mail",
]
