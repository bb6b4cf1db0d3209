import os
import signal
import threading

import pytest

from lit_imgproc.signals import ENDING, Interrupted, heard, unheard


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_is_obeyed_at_once(number):
    exception = KeyboardInterrupt if number == signal.SIGINT else Interrupted
    before = signal.getsignal(number)
    with pytest.raises(exception) as raised, heard() as told:
        send(number)
    assert told.number == number
    assert signal.getsignal(number) == before
    if exception is Interrupted:
        assert (raised.value.number, raised.value.code) == (number, 128 + number)


def test_one_that_is_deferred_is_only_noted_and_a_second_one_obeyed():
    with heard() as told:
        told.deferred = True
        send(signal.SIGTERM)
        assert told.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert told.number == signal.SIGTERM  # the first says what the end is for


def test_a_process_that_is_ending_hears_no_more():
    with heard() as told:
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert told.number == signal.SIGTERM


def test_nothing_is_heard_where_something_must_be_finished():
    with heard() as told:
        with unheard():
            for number in ENDING:
                send(number)
        assert told.number is None
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)


def test_another_thread_can_listen_to_none_and_is_not_in_the_way():
    numbers = []

    def listen():
        with heard() as told, unheard():
            numbers.append(told.number)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert numbers == [None]


def test_left_alone_it_ends_a_process_with_the_code_of_a_shell():
    assert Interrupted(signal.SIGTERM).code == 143
    assert Interrupted(signal.SIGUSR1, 75).code == 75
